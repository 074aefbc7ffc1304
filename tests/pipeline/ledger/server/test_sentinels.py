"""The ledger follows whichever Redis the sentinels name; broker and beat are told where to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redbeat.schedulers import get_redis

from pipeline.deployment.broker import RENDER, beat_options, celery_app, send_hint
from pipeline.deployment.broker_keys import RENDER_QUEUE, queue_key, queue_name
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import LedgerUnavailable
from pipeline.ledger import Ledger
from pipeline.ledger.server.durability import check_durability, durability
from pipeline.process.redact import conceal_environment, redacted
from tests.factories import batch_record
from tests.faults.deployment import until
from tests.sentinels import PASSWORD, SENTINEL_PASSWORD, watched, watched_over_tls


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


def test_sentinels_and_the_primary_are_reached_over_tls_and_with_our_certificate(
    settings: Settings, tmp_path: Path
) -> None:
    """By the ledger, by what gives hints, by what takes them, and by beat; also after a failover."""
    with watched_over_tls(tmp_path) as tls:
        own = load_settings(settings.environment(), redis_url=tls.url, **tls.files)
        ledger, app = Ledger(own), celery_app(own)
        app.conf.update(beat_options(own))
        assert send_hint(app, RENDER)
        ledger.store.redis.wait(1, 5_000)  # until the replica has it
        tls.behind.kill_primary()
        until("the ledger is written again", lambda: _created(ledger, "after"))
        assert get_redis(app).hget(ledger.store.keys.batch("after"), "state")
        until("the broker gives hints again", lambda: send_hint(app, RENDER))
        with app.connection_for_read() as connection:
            queue = connection.SimpleQueue(queue_name(own.redis_prefix, RENDER_QUEUE))
            assert queue.get(timeout=300).headers["task"] == RENDER
        strangers: tuple[dict[str, Any], ...] = ({"redis_ca": tls.files["redis_ca"]}, {})
        for stranger in strangers:  # without a certificate; with another CA
            with pytest.raises(LedgerUnavailable):
                Ledger(load_settings(settings.environment(), redis_url=tls.url, **stranger)).now()


def test_the_password_of_the_sentinels_is_a_secret_too() -> None:
    url = "sentinel://u:first-secret@h/main?sentinel_password=second%2Bsecret"
    conceal_environment({"TESSERA_REDIS_URL": url})
    assert redacted("first-secret second+secret second%2Bsecret").split() == ["***"] * 3
