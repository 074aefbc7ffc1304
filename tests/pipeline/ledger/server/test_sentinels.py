"""The ledger follows whichever Redis the sentinels name; broker and beat are told where to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme

from pipeline.deployment.broker import RENDER, celery_app, send_hint
from pipeline.deployment.broker_keys import RENDER_QUEUE, queue_key
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import LedgerUnavailable
from pipeline.ledger import Ledger
from pipeline.ledger.server.durability import check_durability, durability
from pipeline.process.redact import conceal_environment, redacted
from tests.factories import batch_record
from tests.faults.deployment import until
from tests.sentinels import PASSWORD, SENTINEL_PASSWORD, watched
from tests.tls import Terminator


def test_a_failover_is_an_outage_of_seconds(settings: Settings, tmp_path: Path) -> None:
    with watched(tmp_path) as redis:
        own = load_settings(settings.environment(), redis_url=redis.url)
        ledger, app = Ledger(own), celery_app(own)
        check_durability(ledger.store, refuse=True)
        assert [trait.wrong for trait in durability(ledger.store)] == [False, False]
        ledger.batches.create(batch_record("before"))
        assert send_hint(app, RENDER)
        ledger.store.redis.wait(1, 5_000)  # until the replica has it
        assert redis.primary_port() == redis.ports[0]
        redis.kill_primary()
        until("the ledger is written again", lambda: _created(ledger, "after"))
        assert redis.primary_port() == redis.ports[1]
        assert ledger.batches.unfinished() == ["after", "before"]
        until("the broker takes hints again", lambda: send_hint(app, RENDER))
        assert ledger.workers.hints(queue_key(own.redis_prefix, RENDER_QUEUE)) == 2


def _created(ledger: Ledger, batch_id: str) -> bool:
    try:
        return bool(ledger.batches.create(batch_record(batch_id)))
    except LedgerUnavailable:
        return False


def test_no_sentinel_or_no_such_service_is_named(settings: Settings, tmp_path: Path) -> None:
    with watched(tmp_path) as redis:
        other = load_settings(settings.environment(), redis_url=redis.url.replace("/main?", "/other?"))
        with pytest.raises(LedgerUnavailable, match=r"names a primary.*other") as error:
            Ledger(other).now()
        stranger = load_settings(settings.environment(), redis_url=redis.url.replace("watch%2Ber", "wrong"))
        with pytest.raises(LedgerUnavailable):
            Ledger(stranger).now()
    for secret in (PASSWORD, SENTINEL_PASSWORD, "watch%2Ber"):
        assert secret not in str(error.value)


def test_sentinels_are_asked_over_tls_and_with_our_certificate(settings: Settings, tmp_path: Path) -> None:
    """Which Redis they name is what is asked for: that one speaks no TLS here."""
    ca = trustme.CA()
    ours = ca.issue_cert("client@tessera.example")
    files: dict[str, Any] = {name: tmp_path / f"{name}.pem" for name in ("redis_ca", "redis_cert", "redis_key")}
    ca.cert_pem.write_to_path(files["redis_ca"])
    ours.cert_chain_pems[0].write_to_path(files["redis_cert"])
    ours.private_key_pem.write_to_path(files["redis_key"])
    with watched(tmp_path) as redis, Terminator(redis.sentinel_port, ca, ca.issue_cert("localhost")) as tls:
        nodes = redis.url.partition("@")[2].replace(
            f"127.0.0.1:1,127.0.0.1:{redis.sentinel_port}", f"localhost:{tls.port}"
        )
        url = f"rediss+{redis.url.partition('@')[0]}@{nodes}"
        own = load_settings(settings.environment(), redis_url=url, **files)
        assert Ledger(own).store.redis.connection_pool.get_master_address() == ("127.0.0.1", redis.ports[0])
        stranger = load_settings(settings.environment(), redis_url=url, redis_ca=files["redis_ca"])
        for refused in (stranger, load_settings(settings.environment(), redis_url=url)):
            with pytest.raises(LedgerUnavailable):
                Ledger(refused).now()


def test_the_password_of_the_sentinels_is_a_secret_too() -> None:
    url = "sentinel://u:first-secret@h/main?sentinel_password=second%2Bsecret"
    conceal_environment({"TESSERA_REDIS_URL": url})
    assert redacted("first-secret second+secret second%2Bsecret").split() == ["***"] * 3
