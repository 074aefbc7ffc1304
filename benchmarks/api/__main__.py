"""`python -m benchmarks.api`: measure `tessera serve` on the embedded services; writes benchmarks/results/api.json."""

import argparse
import http.client
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.api.page import IMAGES, page_figures, put_pictures
from benchmarks.bulk.deployment import MODELS
from embedded.services.services import no_proxy, running_services
from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.s3 import Credentials
from pipeline.client.remote.http import HttpApi
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.settings import Settings, load_settings
from pipeline.ledger import Ledger
from pipeline.operations.tokens import create_token
from pipeline.records.batch import BatchManifest, BatchRecord
from pipeline.records.tokens import Scope
from pipeline.version import installed_version

RESULTS = Path(__file__).parents[1] / "results" / "api.json"
BATCH, ROWS = "a-million", 1_000_000
PICTURES = "pictures"
MB = 1_000_000
_CONNECTIONS = 16
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and write what was found with the load of the machine."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long statuses are asked for")
    parser.add_argument("--rate", type=int, default=200, help="requests a second")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for what was found")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, running_services(Path(folder)) as services:
        os.environ.update(services.credentials | no_proxy(os.environ))
        where: dict[str, Any] = dict(services.settings)
        settings = load_settings({}, **where, models=MODELS, api_requests_per_minute=10**6)
        ledger = Ledger(settings)
        ledger.announce(Deployment.of(settings, installed_version()))
        _put_batch(ledger, BATCH, ROWS)
        _put_batch(ledger, PICTURES, IMAGES)
        credentials = Credentials(*(services.credentials[name] for name in _CREDENTIALS))
        put_pictures(ledger, Artifacts(settings, credentials), PICTURES)
        token = create_token(ledger, "default", (Scope.ADMIN,), life=None).text
        with _served(settings) as (url, pid):
            figures = {
                "status": _statuses(url, token, pid, arguments.rate, arguments.seconds),
                "page": page_figures(url, token, PICTURES),
                "upload": _upload(url, token, pid),
                "events": _events(url, token, ledger),
            }
    result = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load before {load_before:.1f}",
        "figures": figures,
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _put_batch(ledger: Ledger, batch_id: str, rows: int) -> None:
    """A batch of so many rows, as the ledger has it once it is accepted."""
    manifest = BatchManifest(
        id=batch_id,
        incarnation="00000000",
        tenant="default",
        priority=5,
        created_at=ledger.now(),
        rows=rows,
        images=rows,
        seed=0,
        staged="0" * 16,
        input_sha256="0" * 64,
        defaults={},
        client_version="0",
    )
    ledger.batches.create(BatchRecord(manifest=manifest, updated_at=ledger.now()))


@contextmanager
def _served(settings: Settings) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=dict(os.environ) | settings.environment())
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/healthz", timeout=5)  # noqa: S310  # our own server
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None:
                    raise SystemExit("the server ended") from None
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _statuses(url: str, token: str, pid: int, rate: int, seconds: float) -> dict[str, Any]:
    """Statuses asked for at moments that do not wait for answers; seconds count from when each was due."""
    address, count = urlsplit(url), int(rate * seconds)
    took: list[float] = []
    begin = time.monotonic() + 1.0

    def ask_for(numbers: range) -> None:
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
        for number in (-1, *numbers):  # the first is to warm the connection
            due = begin + number / rate
            time.sleep(max(0.0, due - time.monotonic()))
            connection.request("GET", f"/api/batches/{BATCH}/status", headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise SystemExit(f"status {answer.status}: {body[:200]!r}")
            if number >= 0:
                took.append(time.monotonic() - due)

    before = _cpu_s(pid)
    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        list(threads.map(ask_for, (range(first, count, _CONNECTIONS) for first in range(_CONNECTIONS))))
    cpu_ms = 1000 * (_cpu_s(pid) - before) / len(took)
    took.sort()
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "max_ms": 1.0}
    at = {name: round(1000 * took[min(len(took) - 1, int(len(took) * share))], 1) for name, share in shares.items()}
    return {"requests_a_second": rate, "requests": len(took), **at, "server_cpu_ms_each": round(cpu_ms, 2)}


def _cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS


def _peak_mb(pid: int) -> float:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / MB


def _upload(url: str, token: str, pid: int) -> dict[str, Any]:
    """200 MB of JSON Lines, and the peak of the server's memory before and after."""
    before, began = _peak_mb(pid), time.monotonic()
    with tempfile.TemporaryFile() as file:
        line = b'{"prompt": "' + b"a long way over the hills " * 36 + b'"}\n'
        file.writelines(line for _ in range(200 * MB // len(line)))
        file.seek(0)
        HttpApi(url, token).upload("rows.jsonl", file, {})
    return {
        "megabytes": 200,
        "seconds": round(time.monotonic() - began, 1),
        "server_peak_mb_before": round(before, 1),
        "server_peak_mb_after": round(_peak_mb(pid), 1),
    }


def _events(url: str, token: str, ledger: Ledger, followers: int = 200) -> dict[str, Any]:
    """How long after an image's success each of many followers has it."""
    seen: list[float] = []
    ready, lock = threading.Barrier(followers + 1), threading.Lock()

    def follow() -> None:
        request = urllib.request.Request(  # noqa: S310  # our own server
            f"{url}/api/batches/{BATCH}/events", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310  # the same
            answer.readline()
            ready.wait(120)
            for text in answer:
                if b'"succeeded"' in text and text.startswith(b'data: {"name"'):
                    with lock:
                        seen.append(time.monotonic())
                    return

    threads = [threading.Thread(target=follow, daemon=True) for _ in range(followers)]
    for thread in threads:
        thread.start()
    ready.wait(120)
    began = time.monotonic()
    event = {"what": "image", "id": "0", "state": "succeeded"}
    ledger.store.redis.xadd(ledger.store.keys.events(BATCH), event)
    for thread in threads:
        thread.join(60)
    return {"followers": followers, "seen_by": len(seen), "last_s": round(max(seen) - began, 2)}


if __name__ == "__main__":
    main()
