"""One damaged object or record costs itself only: the ledger is believed again, and all others go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from pipeline.bucket import artifacts
from pipeline.ledger.store import Store
from pipeline.operations.listing import BatchFilter, newest_batches
from pipeline.records.end_marker import EndMarker
from pipeline.records.object_keys import BatchObjects
from pipeline.records.object_sizes import largest
from pipeline.records.schedules.schedule import ScheduleRecord
from pipeline.records.schedules.schedule_keys import ScheduleObjects
from pipeline.records.webhooks import Webhook, WebhookEndpoint
from pipeline.states import BatchState
from tasks.control import generation, verify_ledger
from tasks.control import schedules as recovery
from tasks.control.rebuild import end_of
from tasks.control.reconcile_schedules import reconcile_schedules
from tests.factories import at
from tests.tasks.control.test_rollbacks import completed, forgotten, run
from tests.tasks.control.test_schedules import schedule
from tests.tasks.stage import Stage

NO_MOMENTS = ("2026-01-01T00:00:00", "9999-12-31T23:59:59Z")
each_no_moment = pytest.mark.parametrize("text", NO_MOMENTS)


@pytest.fixture(autouse=True)
def _every_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "BUCKET_EVERY_S", 0.0)


def change(stage: Stage, key: str, **changes: Any) -> None:
    """Write other values into an object of JSON."""
    body = stage.artifacts.get(key)
    assert body is not None
    stage.artifacts.put(key, json.dumps(json.loads(body) | changes).encode(), content_type="application/json")


def change_in_ledger(store: Store, key: str, field: str, **changes: Any) -> None:
    text = store.redis.hget(key, field)
    assert text is not None
    store.redis.hset(key, field, json.dumps(json.loads(text) | changes))


def empty(stage: Stage) -> None:
    """Take everything out of the ledger."""
    for key in stage.ledger.store.redis.scan_iter(f"{stage.settings.redis_prefix}:*"):
        stage.ledger.store.redis.delete(key)


@each_no_moment
def test_a_batch_that_was_accepted_at_no_moment_does_not_keep_the_ledger_in_doubt(stage: Stage, text: str) -> None:
    with forgotten(stage):
        stage.accepted(2, "bad")
        change(stage, BatchObjects("bad").manifest, created_at=text)
        stage.accepted(5)
        run(stage)
    completed(stage, 5)
    assert not stage.ledger.batches.known("bad")


def test_a_batch_of_no_moment_in_the_ledger_does_not_spoil_the_lists(stage: Stage) -> None:
    stage.accepted(2, "bad")
    stage.accepted(2)
    store = stage.ledger.store
    record = json.loads(str(store.redis.hget(store.keys.batch("bad"), "record")))
    manifest = record["manifest"] | {"created_at": NO_MOMENTS[0]}
    change_in_ledger(store, store.keys.batch("bad"), "record", manifest=manifest)
    assert [one.id for one in newest_batches(stage.ledger, 10, BatchFilter(since=at()))] == ["b"]


def test_our_own_error_over_one_batch_that_was_forgotten_leaves_the_others_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(artifacts: Any, objects: BatchObjects) -> EndMarker | None:
        if objects.batch_id == "bad":
            raise ZeroDivisionError
        return end_of(artifacts, objects)

    monkeypatch.setattr(verify_ledger, "end_of", broken)
    monkeypatch.setattr(verify_ledger, "MARGIN", -timedelta(days=1))  # none is recent
    stage.batch(5)
    with forgotten(stage):
        stage.accepted(2, "bad")
    completed(stage, 5)


@each_no_moment
def test_a_schedule_whose_cursor_is_no_moment_does_not_hide_the_others(stage: Stage, text: str) -> None:
    for name in ("a", "z"):
        schedule(stage, name)
    change(stage, ScheduleObjects("a").record, cursor=text)
    reconcile_schedules(stage.worker)
    empty(stage)
    reconcile_schedules(stage.worker)
    assert stage.ledger.schedules.names() == ["z"]


@each_no_moment
def test_a_firing_that_was_due_at_no_moment_is_left_out(stage: Stage, text: str) -> None:
    record = schedule(stage, "a")
    body = json.dumps({"id": "a-x", "fire_at": text, "outcome": "skipped", "recorded_at": text}).encode()
    stage.artifacts.put(ScheduleObjects("a").firing("a-x"), body, content_type="application/json")
    reconcile_schedules(stage.worker)
    empty(stage)
    reconcile_schedules(stage.worker)
    restored = stage.ledger.schedules.get("a")
    assert restored is not None
    assert restored.spec == record.spec


def test_our_own_error_over_one_schedule_leaves_the_others_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "z"):
        schedule(stage, name)
    empty(stage)
    recovered = recovery.recovered

    def broken(context: Any, record: ScheduleRecord, firings: Any) -> ScheduleRecord:
        if record.name == "a":
            raise OverflowError
        return recovered(context, record, firings)

    monkeypatch.setattr(recovery, "recovered", broken)
    recovery.recover_schedules(stage.worker)
    assert stage.ledger.schedules.names() == ["z"]


def test_a_webhook_that_was_added_at_no_moment_is_passed_over(stage: Stage) -> None:
    webhook = Webhook(url="https://example.com/")
    for name in ("wh-a", "wh-z"):
        stage.ledger.webhooks.add_endpoint(WebhookEndpoint(id=name, tenant="t", webhook=webhook, created_at=at()))
    store = stage.ledger.store
    change_in_ledger(store, store.keys.endpoints, "wh-a", created_at=NO_MOMENTS[0])
    assert [one.id for one in stage.ledger.webhooks.endpoints()] == ["wh-z"]


@pytest.fixture
def too_large(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Keys of objects that are larger than any of their kind: the bound of these is a byte."""
    keys = set[str]()
    monkeypatch.setattr(artifacts, "largest", lambda key: 1 if key in keys else largest(key))
    return keys


@contextmanager
def written_as_usual(stage: Stage, too_large: set[str]) -> Iterator[None]:
    """What is put in the place of an object that is too large is not."""
    put = stage.artifacts.put

    def noted(key: str, *args: Any, **kwargs: Any) -> None:
        put(key, *args, **kwargs)
        too_large.discard(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.artifacts, "put", noted)
        yield


def test_a_batch_json_that_is_too_large_does_not_keep_the_ledger_in_doubt(stage: Stage, too_large: set[str]) -> None:
    too_large.add(BatchObjects("bad").manifest)
    with forgotten(stage):
        stage.accepted(2, "bad")
        stage.accepted(5)
        run(stage)
    completed(stage, 5)
    assert not stage.ledger.batches.known("bad")


def test_a_marker_that_is_too_large_is_a_damaged_one_and_written_again(stage: Stage, too_large: set[str]) -> None:
    stage.batch(5)
    run(stage)
    too_large.add(BatchObjects("b").marker(BatchState.COMPLETED))
    with written_as_usual(stage, too_large), forgotten(stage):
        stage.accepted(2, "later")
    assert too_large == set()
    completed(stage, 5)


def test_a_fragment_that_is_too_large_is_written_again_and_the_batch_ends(stage: Stage, too_large: set[str]) -> None:
    stage.batch(5)
    stage.work()
    key = BatchObjects("b").fragment(0)
    too_large.add(key)
    with written_as_usual(stage, too_large):
        stage.finalized()
    assert too_large == set()
    completed(stage, 5)


def test_a_shard_that_is_too_large_is_made_again(stage: Stage, too_large: set[str]) -> None:
    stage.batch(5)
    key = BatchObjects("b").shard(0)
    too_large.add(key)
    with written_as_usual(stage, too_large):
        stage.work()
    stage.finalized()
    assert too_large == set()
    completed(stage, 5)
