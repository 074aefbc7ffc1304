"""Cutting a batch into jobs, as often as one likes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

import pytest

from pipeline.deployment.broker import EXPAND
from pipeline.deployment.layouts import Layout
from pipeline.errors import StoreUnavailable
from pipeline.operations.cancel import request_cancel
from pipeline.records.batch import JobRecord, Pace, Plan
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, JobState
from tasks.control import expand as module
from tasks.control import tick
from tasks.control.expand import expand
from tasks.jobs import shards
from tasks.jobs.shards import AT_A_TIME
from tests.tasks.stage import Stage


def _objects(stage: Stage) -> dict[str, bytes | None]:
    return {key: stage.artifacts.get(key) for key in stage.artifacts.list("")}


def test_a_batch_becomes_jobs_of_at_most_so_many_images(stage: Stage) -> None:
    stage.batch(prompts=[{"prompt": "a", "num_images": 5}, {"prompt": "b"}, {"prompt": "c"}], tenant="acme", priority=3)
    assert [stage.job(index).images for index in range(3)] == [3, 3, 1]
    record = stage.ledger.batches.get("b")
    assert (record.state, record.jobs) == (BatchState.IN_PROGRESS, 3)
    job = stage.job(1)
    assert (job.tenant, job.priority, job.incarnation) == ("acme", 3, record.manifest.incarnation)
    assert stage.ledger.batches.counts("b").jobs[JobState.QUEUED] == 3
    assert stage.ledger.leases.backlog() == 3


def test_expanding_twice_gives_the_same_and_disturbs_no_job(stage: Stage) -> None:
    stage.batch(4)
    before, job = _objects(stage), stage.ledger.leases.claim("w", 60)
    expand(stage.worker, "b")
    assert _objects(stage) == before
    assert job is not None
    assert stage.job() == job.job
    assert stage.ledger.batches.counts("b").jobs[JobState.QUEUED] == 2


def test_an_expansion_that_broke_off_among_its_jobs_is_completed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.accepted(7)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tasks.control.expand.let_run", killed)
        with pytest.raises(KeyboardInterrupt):
            expand(stage.worker, "b")
    before = _objects(stage)
    assert stage.batch_state() is BatchState.VALIDATING
    lease = stage.ledger.leases.claim("w", 60)  # a job may be taken before the batch is said to run
    assert lease is not None
    expand(stage.worker, "b")
    assert (stage.batch_state(), stage.ledger.batches.get("b").jobs) == (BatchState.IN_PROGRESS, 3)
    assert _objects(stage) == before
    assert stage.ledger.jobs.held(lease.job.ref)
    assert stage.ledger.leases.backlog() == 2


@pytest.mark.parametrize("jobs", [0, 1, 2])
def test_an_expansion_killed_between_two_jobs_is_completed_and_its_counters_are_right(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    stage.accepted(7)
    create_all = stage.ledger.jobs.create_all

    def killed(records: Iterable[JobRecord]) -> int:
        create_all(itertools.islice(records, jobs))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stage.worker.ledger.jobs, "create_all", killed)
        with pytest.raises(KeyboardInterrupt):
            expand(stage.worker, "b")
    assert stage.ledger.leases.backlog() == jobs
    expand(stage.worker, "b")
    assert (stage.batch_state(), stage.ledger.batches.get("b").jobs) == (BatchState.IN_PROGRESS, 3)
    assert stage.ledger.batches.counts("b").jobs[JobState.QUEUED] == 3
    assert [stage.job(index).images for index in range(3)] == [3, 3, 1]
    stage.work()
    stage.finalized()
    assert stage.images() == ["succeeded"] * 7


def test_no_job_is_queued_before_every_shard_is_there(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last row shows whether the rows are those that were accepted."""
    stage.accepted(40)
    put, seen = stage.artifacts.put, []

    def slow(key: str, body: bytes, *, content_type: str) -> None:
        time.sleep(0.05)
        put(key, body, content_type=content_type)
        seen.append(stage.ledger.leases.backlog())

    monkeypatch.setattr(stage.artifacts, "put", slow)
    expand(stage.worker, "b")
    assert seen == [0] * 14
    assert stage.ledger.leases.backlog() == 14


def test_shards_are_written_a_few_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several, for each is a round trip; few, for memory holds them."""
    stage.accepted(3 * 4 * AT_A_TIME)
    put, under_way, most = stage.artifacts.put, [], []

    def counted(key: str, body: bytes, *, content_type: str) -> None:
        under_way.append(key)
        most.append(len(under_way))
        time.sleep(0.02)
        put(key, body, content_type=content_type)
        under_way.remove(key)

    monkeypatch.setattr(stage.artifacts, "put", counted)
    expand(stage.worker, "b")
    assert 1 < max(most) <= AT_A_TIME


def test_a_store_that_goes_away_among_the_shards_puts_the_expansion_off(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.accepted(60)
    put = stage.artifacts.put

    def away(key: str, body: bytes, *, content_type: str) -> None:
        if key.endswith("00007.jsonl"):
            raise StoreUnavailable("away")
        put(key, body, content_type=content_type)

    with monkeypatch.context() as patched:
        patched.setattr(stage.artifacts, "put", away)
        with pytest.raises(StoreUnavailable):
            expand(stage.worker, "b")
    assert (stage.batch_state(), stage.ledger.leases.backlog()) == (BatchState.VALIDATING, 0)
    expand(stage.worker, "b")
    assert stage.ledger.leases.backlog() == 20


@pytest.mark.parametrize("body", [None, b"", b'{"row":1}\n', b"not json\n", b"\xff\n"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_rows_that_are_not_the_accepted_ones_end_the_batch_with_a_reason(
    stage: Stage, body: bytes | None, cancelled: bool
) -> None:
    stage.accepted(3)
    key = BatchObjects("b").input(stage.ledger.batches.get("b").manifest.staged)
    rows = stage.artifacts.get(key)
    assert rows is not None
    stage.artifacts.put(key, rows[: rows.index(b"\n") + 1] if body is None else body, content_type="text/plain")
    if cancelled:
        request_cancel(stage.ledger, "b")
    expand(stage.worker, "b")
    record = stage.ledger.batches.get("b")
    assert record.state is BatchState.FAILED
    assert (record.reason or "").startswith(f"{key} ")
    assert stage.ledger.leases.backlog() == 0
    assert stage.artifacts.head(BatchObjects("b").marker(record.state)) is not None


def test_a_batch_that_is_over_is_not_expanded_again(stage: Stage) -> None:
    stage.batch(1)
    stage.work()
    stage.finalized()
    before = _objects(stage)
    expand(stage.worker, "b")
    assert _objects(stage) == before
    assert stage.batch_state() is BatchState.COMPLETED


def test_of_large_batches_one_is_expanded_at_a_time_and_small_ones_do_not_wait(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGE_IMAGES", 5)
    for batch_id, rows in (("large", 6), ("larger", 7), ("small", 5)):
        stage.accepted(rows, batch_id)
    seen: list[str | int | None] = []
    create_all = stage.ledger.jobs.create_all

    def meanwhile(records: Iterable[JobRecord]) -> int:
        if not seen:
            seen.append("large")
            for other in ("larger", "small"):
                expand(stage.worker, other)
                seen.append(stage.ledger.batches.get(other).jobs)
        return create_all(records)

    monkeypatch.setattr(stage.worker.ledger.jobs, "create_all", meanwhile)
    expand(stage.worker, "large")
    assert seen == ["large", None, 2]
    tick.request_next_step(stage.worker, "larger")
    assert stage.hints() == [EXPAND]
    expand(stage.worker, "larger")
    assert stage.ledger.batches.get("larger").jobs == 3


def test_an_expansion_that_is_under_way_is_left_alone(stage: Stage) -> None:
    stage.accepted(1)
    with stage.ledger.locks.only_one("expand-b"):
        expand(stage.worker, "b")
    assert stage.ledger.batches.get("b").jobs is None


def test_submitting_the_same_batch_while_it_is_expanded_changes_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.accepted(7)
    accepted = stage.ledger.batches.get("b").manifest
    put = stage.artifacts.put

    def again(key: str, body: bytes, *, content_type: str) -> None:
        put(key, body, content_type=content_type)
        if "shards/" in key:
            stage.accepted(7)

    with monkeypatch.context() as patched:
        patched.setattr(stage.artifacts, "put", again)
        expand(stage.worker, "b")
    expanded = stage.ledger.batches.get("b")
    assert (expanded.manifest, expanded.jobs, expanded.state) == (accepted, 3, BatchState.IN_PROGRESS)
    before = _objects(stage)
    stage.accepted(7)  # and once it is
    assert stage.ledger.batches.get("b") == expanded
    assert _objects(stage) == before
    assert stage.ledger.leases.backlog() == 3
    stage.work()
    stage.accepted(7)  # and once its jobs are over
    stage.finalized()
    stage.accepted(7)  # and once it has ended
    assert stage.batch_state() is BatchState.COMPLETED
    assert stage.images() == ["succeeded"] * 7


@pytest.mark.parametrize("behind", [{"priority": 0}, {"tenant": "another"}])
def test_an_urgent_batch_behind_a_large_one_waits_only_for_the_jobs_in_flight(
    stage: Stage, behind: dict[str, Any]
) -> None:
    stage.batch(60, "large")
    in_flight = [stage.ledger.leases.claim(f"w{number}", 60) for number in range(2)]
    assert {lease and lease.job.batch_id for lease in in_flight} == {"large"}
    stage.batch(1, "urgent", **behind)
    lease = stage.ledger.leases.claim("w0", 60)
    assert lease is not None
    assert lease.job.batch_id == "urgent"


def test_rows_that_are_late_are_waited_for_and_rows_that_are_gone_end_the_batch(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.accepted(2)
    key = BatchObjects("b").input(stage.ledger.batches.get("b").manifest.staged)
    body = stage.artifacts.get(key)
    assert body is not None
    stage.artifacts.delete(key)
    monkeypatch.setattr(shards, "LATE_S", 600.0)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="or not yet"):
            expand(stage.worker, "b")
    assert stage.batch_state() is BatchState.VALIDATING
    stage.artifacts.put(key, body, content_type="application/x-ndjson")
    expand(stage.worker, "b")
    assert stage.batch_state() is BatchState.IN_PROGRESS
    stage.accepted(2, "gone")
    stage.artifacts.delete(BatchObjects("gone").input(stage.ledger.batches.get("gone").manifest.staged))
    monkeypatch.setattr(shards, "LATE_S", 0.3)
    with pytest.raises(StoreUnavailable):
        expand(stage.worker, "gone")

    def failed() -> bool:
        try:
            expand(stage.worker, "gone")
        except StoreUnavailable:
            return False
        return True

    stage.soon(failed, "the end of the wait")
    assert stage.batch_state("gone") is BatchState.FAILED


_ENDLESS = Plan(
    images_per_job=2, pace=Pace(job_seconds=900, layout=Layout(1, 1, 2), faster={"demo": 1.0}, native_px={"demo": 256})
)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\x00" * 64, _ENDLESS.model_dump_json().replace('{"demo":1.0}', '{"demo":0.0}').encode()]
)
def test_a_damaged_plan_is_made_anew(stage: Stage, body: bytes) -> None:
    """A ledger that was emptied has only the bucket's."""
    stage.accepted(4)
    stage.artifacts.put(BatchObjects("b").plan, body, content_type="application/json")
    expand(stage.worker, "b")
    assert stage.batch_state() is BatchState.IN_PROGRESS
    stage.work()
    stage.finalized()
    assert stage.images() == ["succeeded"] * 4
