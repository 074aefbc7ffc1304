"""A batch that is purged is gone for good, or being removed, and never half there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from pipeline import Client
from pipeline.cli.main import app
from pipeline.client.connect import Connection
from pipeline.deployment.broker import CANCEL, PURGE
from pipeline.errors import BatchLost, RequestError, StoreUnavailable, UnknownBatch
from pipeline.operations.cancel import request_cancel
from pipeline.operations.purge import request_purge
from pipeline.operations.resume import check_lost, unknown_batches
from pipeline.operations.retry import request_retry
from pipeline.records.batch import Purge, changed
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tasks.control import purge as module
from tasks.control.cancel import cancel
from tasks.control.purge import purge, purge_expired
from tasks.control.tick import request_next_step
from tests.tasks.stage import Stage

OBJECTS = BatchObjects("b")


def _finished(stage: Stage, batch_id: str = "b", rows: int = 7) -> None:
    stage.batch(rows, batch_id)
    stage.work(batch_id)
    stage.finalized(batch_id)
    assert stage.batch_state(batch_id) is BatchState.COMPLETED


def _asked(stage: Stage, wanted: Purge = Purge.EVERYTHING, batch_id: str = "b") -> None:
    request_purge(stage.ledger, stage.artifacts, batch_id, wanted)


def _keys_in_redis(stage: Stage, batch_id: str = "b") -> list[str]:
    prefix = stage.ledger.store.keys.prefix
    found = stage.ledger.store.redis.scan_iter(f"{prefix}:*")
    return [key for key in found if re.search(f":{batch_id}(?:[:/]|$)", key.removeprefix(prefix))]


def _forgotten(stage: Stage) -> None:
    """Redis loses the deployment's data."""
    for key in stage.ledger.store.redis.scan_iter(f"{stage.ledger.store.keys.prefix}:*"):
        stage.ledger.store.redis.delete(key)


def _client(stage: Stage) -> Client:
    return Client(Connection(stage.settings, stage.ledger, stage.artifacts))


def test_nothing_of_it_stays_and_nothing_of_its_neighbours_goes(stage: Stage) -> None:
    _finished(stage, "b2")
    kept, keys = sorted(stage.artifacts.list("batches/")), sorted(_keys_in_redis(stage, "b2"))
    _finished(stage)
    _asked(stage)
    assert stage.ledger.batches.unfinished() == ["b"]
    request_next_step(stage.worker, "b")
    assert stage.hints().count(PURGE) == 1
    purge(stage.worker, "b")
    assert sorted(stage.artifacts.list("batches/")) == kept
    assert sorted(_keys_in_redis(stage, "b2")) == keys
    assert _keys_in_redis(stage) == []
    assert stage.ledger.batches.newest(10) == ["b2"]
    assert stage.ledger.batches.unfinished() == []
    with pytest.raises(UnknownBatch):
        stage.ledger.batches.get("b")


def test_images_that_are_kept_are_all_that_people_look_at_and_their_id_stays_taken(stage: Stage) -> None:
    _finished(stage)
    shown = {key for key in stage.artifacts.list("batches/") if key.startswith(OBJECTS.user_files)}
    assert len(shown) == 7 * 3 + 3
    _asked(stage, Purge.KEEP_IMAGES)
    purge(stage.worker, "b")
    assert set(stage.artifacts.list("batches/")) == shown | {OBJECTS.manifest}
    assert not stage.ledger.batches.known("b")
    # A new batch of this id would take the old pictures for its own.
    with pytest.raises(RequestError, match="whose images were kept when it was; choose another id"):
        stage.accepted(7)
    _asked(stage)
    purge(stage.worker, "b")
    assert not list(stage.artifacts.list("batches/"))
    stage.accepted(7)


@pytest.mark.parametrize("wanted", list(Purge))
def test_neither_resume_nor_retry_brings_it_back(stage: Stage, wanted: Purge) -> None:
    _finished(stage)
    _asked(stage, wanted)
    with pytest.raises(RequestError, match="is being purged"):
        request_retry(stage.ledger, stage.artifacts, "b")
    with pytest.raises(RequestError, match="is being purged"):
        _client(stage).batch("b").download("nowhere")
    assert _client(stage).batch("b").status().as_dict()["purge"] == wanted.value
    _forgotten(stage)
    assert list(unknown_batches(stage.ledger, stage.artifacts, ended=True)) == []
    check_lost(stage.artifacts, "b")
    _asked(stage, wanted)
    purge(stage.worker, "b")
    assert not stage.ledger.batches.known("b")
    assert list(unknown_batches(stage.ledger, stage.artifacts, ended=True)) == []


@pytest.mark.parametrize("wanted", list(Purge))
def test_whoever_is_killed_at_whatever_request_the_next_one_ends_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, wanted: Purge
) -> None:
    monkeypatch.setattr(module, "_A_REQUEST", 4)
    _finished(stage)
    shown = {key for key in stage.artifacts.list("batches/") if key.startswith(OBJECTS.user_files)}
    _asked(stage, wanted)
    kills = 0
    while stage.ledger.batches.known("b"):
        with monkeypatch.context() as patched:
            left = [1]

            def dying(real: Callable[..., None], left: list[int] = left) -> Callable[..., None]:
                def call(*args: object, **named: object) -> None:
                    if not left[0]:
                        raise StoreUnavailable("killed")
                    left[0] -= 1
                    real(*args, **named)

                return call

            for name in ("delete", "delete_all"):
                patched.setattr(stage.artifacts, name, dying(getattr(stage.artifacts, name)))
            try:
                purge(stage.worker, "b")
            except StoreUnavailable:
                kills += 1
        assert stage.artifacts.head(OBJECTS.marker(BatchState.COMPLETED)) is None
        if stage.artifacts.head(OBJECTS.manifest):
            with pytest.raises(RequestError, match="being purged"):
                stage.accepted(7)
    assert kills > 1
    kept = set() if wanted is Purge.EVERYTHING else {OBJECTS.manifest, *shown}
    assert set(stage.artifacts.list("batches/")) == kept


def test_a_large_batch_goes_a_part_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 5)
    _finished(stage)
    _asked(stage)
    rounds = 0
    while stage.ledger.batches.known("b"):
        purge(stage.worker, "b")
        rounds += 1
    assert rounds > 3
    assert not list(stage.artifacts.list("batches/"))


def test_another_batch_that_got_the_id_in_between_stays(stage: Stage) -> None:
    _finished(stage)
    _asked(stage)
    stale = stage.ledger.batches.get("b")
    for key in list(stage.artifacts.list("batches/")):  # its purge died before it told the ledger
        stage.artifacts.delete(key)
    stage.accepted(2)
    assert stage.ledger.batches.get("b") == stale
    before = sorted(stage.artifacts.list("batches/"))
    purge(stage.worker, "b")
    assert sorted(stage.artifacts.list("batches/")) == before
    assert [manifest.rows for manifest in unknown_batches(stage.ledger, stage.artifacts, ended=False)] == [2]


def test_what_has_not_ended_or_is_not_there_is_refused(stage: Stage) -> None:
    stage.batch(1)
    with pytest.raises(RequestError, match="b is in_progress; a batch that has ended wanted: wait"):
        _asked(stage)
    with pytest.raises(UnknownBatch):
        _asked(stage, batch_id="never")
    _forgotten(stage)
    with pytest.raises(BatchLost):
        _asked(stage)
    assert stage.artifacts.head(OBJECTS.manifest) is not None


def test_what_nobody_asked_for_is_not_removed(stage: Stage) -> None:
    _finished(stage)
    before = sorted(stage.artifacts.list("batches/"))
    purge(stage.worker, "b")
    assert sorted(stage.artifacts.list("batches/")) == before
    assert stage.ledger.batches.known("b")


def _aged(stage: Stage, batch_id: str, days: float) -> None:
    record = stage.ledger.batches.get(batch_id)
    then = stage.ledger.now() - timedelta(days=days)
    stage.ledger.batches.write(changed(record, at=then))
    stage.ledger.store.redis.zadd(stage.ledger.store.keys.batches, {batch_id: (then.timestamp() - 60) * 1000})


@pytest.mark.parametrize(("retention_days", "purged"), [(None, set()), (30.0, {"old"}), (0.5, {"old", "young"})])
def test_the_controller_removes_what_ended_long_enough_ago(
    stage: Stage, retention_days: float | None, purged: set[str]
) -> None:
    for batch_id, days in (("old", 31), ("young", 1)):
        _finished(stage, batch_id, rows=1)
        _aged(stage, batch_id, days)
    stage.batch(1, "runs")
    _aged(stage, "runs", 100)
    purge_expired(stage.new_worker("w2", retention_days=retention_days))
    found = {one for one in stage.ledger.batches.newest(9) if stage.ledger.batches.get(one).manifest.purge is not None}
    assert found == purged


def _run(stage: Stage, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    for name, value in stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["purge", *arguments])
    return done.output + (str(done.exception) if done.exception else "")


def test_the_command_chooses_says_and_asks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch_id, days in (("old", 31), ("young", 1)):
        _finished(stage, batch_id, rows=1)
        _aged(stage, batch_id, days)
    said = _run(stage, monkeypatch, "--older-than", "30d", "--dry-run")
    assert "old  completed, 1 image" in said
    assert "young" not in said
    assert "would remove 1 batch with 1 image" in said
    said = _run(stage, monkeypatch, "--older-than", "30d")
    assert "--yes wanted" in said
    assert all(stage.ledger.batches.get(one).manifest.purge is None for one in stage.ledger.batches.newest(9))
    said = _run(stage, monkeypatch, "--older-than", "30d", "--state", "cancelled", "--json")
    assert json.loads(said)["batches"] == []
    said = _run(stage, monkeypatch, "young", "--keep-images", "--yes")
    assert "the controller removes 1 batch with 1 image, which stay" in said
    assert stage.ledger.batches.get("young").manifest.purge is Purge.KEEP_IMAGES
    said = _run(stage, monkeypatch, "--older-than", "30d", "--json")
    assert json.loads(said) == {"batches": ["old"], "images": 1, "removed": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either ids of batches or --older-than wanted"),
        (["b", "--older-than", "1d"], "either ids of batches or --older-than wanted"),
        (["--older-than", "soon"], "a span as in 30d"),
        (["--older-than", "1d", "--state", "in_progress"], "a state in which a batch has ended wanted"),
        (["b", "--state", "completed"], "--state goes with --older-than"),
        (["never", "--yes"], "no batch 'never'"),
    ],
)
def test_a_call_that_cannot_be_right_removes_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    said = _run(stage, monkeypatch, *arguments)
    assert message in said


def test_one_running_batch_among_those_named_keeps_all(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    _finished(stage)
    stage.batch(1, "runs")
    said = _run(stage, monkeypatch, "b", "runs", "--yes")
    assert "runs is in_progress" in said
    assert stage.ledger.batches.get("b").manifest.purge is None


def test_a_batch_that_is_being_cancelled_is_purged_when_its_jobs_have_ended(stage: Stage) -> None:
    stage.batch(7)
    request_cancel(stage.ledger, "b")
    lease = stage.ledger.leases.claim("busy", 60.0)
    assert lease is not None
    _asked(stage)
    purge(stage.worker, "b")
    assert stage.artifacts.head(OBJECTS.manifest) is not None
    assert CANCEL in stage.hints()
    cancel(stage.worker, "b")
    purge(stage.worker, "b")
    assert stage.ledger.batches.known("b")  # one job is still in somebody's hands
    stage.ledger.leases.release(lease.job.ref, lease.fence)
    cancel(stage.worker, "b")
    purge(stage.worker, "b")
    assert not list(stage.artifacts.list("batches/"))
    assert _keys_in_redis(stage) == []


def test_a_batch_that_can_never_be_cut_is_cancelled_and_purged(stage: Stage) -> None:
    stage.accepted(3)
    request_cancel(stage.ledger, "b")
    _asked(stage)
    purge(stage.worker, "b")
    assert not list(stage.artifacts.list("batches/"))
    assert not stage.ledger.batches.known("b")


@pytest.mark.parametrize(
    "key", [OBJECTS.manifest, OBJECTS.shard(0), OBJECTS.fragment(1), OBJECTS.sidecar(0, 0), OBJECTS.failure(0, 0)]
)
def test_what_cannot_be_read_is_purged_with_the_rest(stage: Stage, key: str) -> None:
    _finished(stage, rows=4)
    stage.artifacts.put(key, b'{"schema_version": 9}', content_type="application/json")
    _asked(stage)
    purge(stage.worker, "b")
    assert not list(stage.artifacts.list("batches/"))
    assert not stage.ledger.batches.known("b")


def test_what_is_left_of_a_batch_whose_manifest_is_gone_is_purged_and_what_others_stage_is_not(stage: Stage) -> None:
    _finished(stage)
    others = OBJECTS.input("another-token")
    stage.artifacts.put(others, b"{}", content_type="application/json")
    _asked(stage)
    stage.artifacts.delete(OBJECTS.manifest)
    purge(stage.worker, "b")
    assert list(stage.artifacts.list("batches/")) == [others]
    assert not stage.ledger.batches.known("b")


@pytest.mark.parametrize("wanted", list(Purge))
def test_what_a_late_list_hides_is_removed_by_its_name(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, wanted: Purge
) -> None:
    _finished(stage)
    shown = {key for key in stage.artifacts.list("batches/") if key.startswith(OBJECTS.user_files)}
    rest = {OBJECTS.input(stage.ledger.batches.get("b").manifest.staged), OBJECTS.plan}
    _asked(stage, wanted)
    with monkeypatch.context() as late:
        late.setattr(stage.artifacts, "list", lambda _: iter(()))
        purge(stage.worker, "b")
    left = {key for key in stage.artifacts.list("batches/") if "/gallery/" not in key and "/staged/" not in key} - rest
    kept = {key for key in shown if "/gallery/" not in key} | {OBJECTS.manifest}
    assert left == (kept if wanted is Purge.KEEP_IMAGES else set())
