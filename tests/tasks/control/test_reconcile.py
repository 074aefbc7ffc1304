"""Ledger and bucket apart, whichever was lost, rolled back or damaged: a repair leads to what is true."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import redis

from pipeline.bucket.artifacts import Artifacts, StoredObject
from pipeline.deployment.settings import Settings
from pipeline.errors import StoreUnavailable, UnknownBatch
from pipeline.operations.cancel import request_cancel
from pipeline.operations.discrepancies import DiscrepancyKind, Verification
from pipeline.operations.purge import request_purge
from pipeline.operations.repair import request_repair
from pipeline.operations.resume import recover_batch, unknown_batches
from pipeline.operations.retry import request_retry
from pipeline.operations.verify import verify
from pipeline.picture import Format
from pipeline.records.attempt import AttemptPhase, AttemptSpec
from pipeline.records.batch import Purge, Repair
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode
from pipeline.states import BatchState, ImageState, JobState
from tasks.control import tick
from tasks.control.cancel import cancel
from tasks.control.expand import expand
from tasks.control.finalize import finalize
from tasks.control.purge import purge
from tasks.control.reconcile import Reconciled, reconcile
from tasks.control.reopen import reopen
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage

OBJECTS = BatchObjects("b")
K = DiscrepancyKind


def _verified(stage: Stage, *, deep: bool = False) -> Verification:
    return verify(stage.ledger, stage.artifacts, "b", deep=deep)


def _kinds(stage: Stage, *, deep: bool = False) -> set[DiscrepancyKind]:
    return {one.kind for one in _verified(stage, deep=deep).discrepancies}


def _input(stage: Stage) -> str:
    return OBJECTS.input(stage.ledger.batches.get("b").manifest.staged)


def _ended(stage: Stage, rows: int = 5) -> None:
    stage.batch(rows)
    stage.work()
    stage.finalized()


def _with_a_failure(stage: Stage) -> None:
    """A completed batch of five, the second of which failed."""

    def play(spec: AttemptSpec) -> Play:
        def work() -> None:
            pod = stage.pod(spec)
            pod.register()
            pod.commit([task for task in pod.left() if task.index != 1])
            pod.fail([task for task in pod.left() if task.index == 1])

        return [work, SUCCEEDED]

    stage.batch(5)
    stage.node.play = play
    stage.work()
    stage.finalized()
    stage.node.play = stage.all_well


def _settled(stage: Stage, *, deep: bool = False) -> BatchState:
    """Repair the batch, let everybody do what follows, and see that nothing is wrong any more. Returns how it ended."""
    request_repair(stage.ledger, stage.artifacts, "b", Repair.FILES if deep else Repair.OBJECTS)
    assert reconcile(stage.worker, "b") is not Reconciled.BUSY
    for _ in range(8):
        expand(stage.worker, "b")
        cancel(stage.worker, "b")
        stage.work()
        finalize(stage.worker, "b")
        if stage.batch_state() in (BatchState.COMPLETED, BatchState.CANCELLED, BatchState.FAILED):
            break
    found = _verified(stage, deep=deep)
    assert found.ok, found.discrepancies
    record = stage.ledger.batches.get("b")
    assert record.repair is None
    states = (ImageState.SUCCEEDED, ImageState.FAILED, ImageState.CANCELLED)
    counts = stage.ledger.batches.counts("b").images
    assert [found.succeeded, found.failed, found.cancelled] == [counts[state] for state in states]
    assert len(stage.lines("results.jsonl")) == found.succeeded
    return record.state


@contextmanager
def _rolled_back(stage: Stage) -> Iterator[None]:
    """Redis is after this what it was before it, whatever was written to it inside."""
    raw = redis.Redis.from_url(stage.settings.redis_url.get_secret_value())
    mine = f"{stage.settings.redis_prefix}:*"
    before = {key: raw.dump(key) for key in raw.scan_iter(mine)}
    yield
    for key in raw.scan_iter(mine):
        raw.delete(key)
    for key, value in before.items():
        if value is not None:  # it has not expired meanwhile
            raw.restore(key, 0, value)
    raw.close()


def test_a_batch_that_is_well_is_left_as_it_is(stage: Stage) -> None:
    _ended(stage)
    before = stage.ledger.batches.get("b")
    assert _verified(stage, deep=True).as_dict() == {
        "batch": "b",
        "redis": "completed",
        "bucket": "completed",
        "images": 5,
        "succeeded": 5,
        "failed": 0,
        "cancelled": 0,
        "files": 5,
        "moving": False,
        "ok": True,
        "discrepancies": [],
    }
    assert reconcile(stage.worker, "b") is Reconciled.AGREES
    assert stage.ledger.batches.get("b") == before


def test_a_batch_that_is_being_rendered_has_nothing_wrong(stage: Stage) -> None:
    stage.batch(7)

    def play(spec: AttemptSpec) -> Play:
        if spec.job_index == 0:
            return stage.all_well(spec)
        return [lambda: stage.pods_work(spec, lambda tasks: tasks[:1]), AttemptPhase.RUNNING]

    stage.node.play = play
    stage.in_background(stage.new_worker("first"))
    stage.soon(lambda: stage.state(1) is JobState.RUNNING, "a running job")
    stage.close()
    found = _verified(stage)
    assert (found.ok, found.moving, found.succeeded) == (True, True, 4)
    assert reconcile(stage.worker, "b") is Reconciled.AGREES
    assert stage.state(1) is JobState.RUNNING


@pytest.mark.parametrize(
    ("key", "kind", "rendered"),
    [
        (OBJECTS.image(1, 0, Format.PNG), K.IMAGE_GONE, 1),
        (OBJECTS.fragment(1), K.FRAGMENT_DIFFERS, 0),
        (OBJECTS.results, K.RESULTS_DIFFER, 0),
        (OBJECTS.errors, K.RESULTS_DIFFER, 0),
        (OBJECTS.marker(BatchState.COMPLETED), K.MARKER_GONE, 0),
        (OBJECTS.manifest, K.MANIFEST_GONE, 0),
        (OBJECTS.shard(0), K.SHARD_GONE, 0),
    ],
)
def test_an_object_that_was_deleted_is_found_and_made_again(
    stage: Stage, key: str, kind: DiscrepancyKind, rendered: int
) -> None:
    _ended(stage)
    launched, before = len(stage.node.launched), stage.artifacts.get(key)
    stage.artifacts.delete(key)
    assert kind in _kinds(stage)
    assert _settled(stage) is BatchState.COMPLETED
    assert stage.images() == ["succeeded"] * 5
    assert len(stage.node.launched) == launched + rendered
    assert before is not None
    assert key == OBJECTS.image(1, 0, Format.PNG) or key == OBJECTS.manifest or stage.artifacts.get(key) == before


@pytest.mark.parametrize(
    "body", [b"", b'{"schema_version": 1', b"\xff\n", None], ids=["empty", "broken", "bytes", "of others"]
)
def test_a_damaged_fragment_is_made_again_from_its_images(stage: Stage, body: bytes | None) -> None:
    _ended(stage)
    launched = len(stage.node.launched)
    damaged = body if body is not None else stage.artifacts.get(OBJECTS.fragment(1))
    assert damaged is not None
    stage.artifacts.put(OBJECTS.fragment(0), damaged, content_type="application/x-ndjson")
    assert K.FRAGMENT_DIFFERS in _kinds(stage)
    assert _settled(stage) is BatchState.COMPLETED
    assert len(stage.node.launched) == launched


@pytest.mark.parametrize("body", [b"", b"{}", None], ids=["empty", "of another kind", "of another batch"])
def test_a_damaged_manifest_is_written_again_from_the_ledger(stage: Stage, body: bytes | None) -> None:
    _ended(stage)
    before = stage.artifacts.get(OBJECTS.manifest)
    assert before is not None
    wrong = body if body is not None else before.replace(b'"id":"b"', b'"id":"c"')
    stage.artifacts.put(OBJECTS.manifest, wrong, content_type="application/json")
    assert _kinds(stage) == {K.MANIFEST_GONE}
    assert _settled(stage) is BatchState.COMPLETED
    assert stage.artifacts.get(OBJECTS.manifest) == before
    assert not stage.ledger.batches.known("c")


def test_a_manifest_of_a_later_version_is_left_as_it_is(stage: Stage) -> None:
    _ended(stage)
    newer = b'{"schema_version": 99}'
    stage.artifacts.put(OBJECTS.manifest, newer, content_type="application/json")
    assert _kinds(stage) == {K.UNREADABLE}
    assert reconcile(stage.worker, "b") is Reconciled.UNREADABLE
    assert stage.artifacts.get(OBJECTS.manifest) == newer


def test_a_file_that_changed_is_found_by_reading_it_and_rendered_again(stage: Stage) -> None:
    _ended(stage)
    key = OBJECTS.image(2, 0, Format.PNG)
    whole = stage.artifacts.get(key)
    assert whole is not None
    stage.artifacts.put(key, whole[:-20] + bytes(20), content_type="image/png")
    stage.artifacts.delete(OBJECTS.sidecar(3, 0))
    assert _kinds(stage) == set()
    assert _kinds(stage, deep=True) == {K.IMAGE_DAMAGED, K.SIDECAR_DIFFERS}
    assert _settled(stage, deep=True) is BatchState.COMPLETED
    assert stage.artifacts.get(key) == whole


def test_rows_that_are_not_the_accepted_ones_are_found_by_reading_them(stage: Stage) -> None:
    _ended(stage)
    stage.artifacts.put(_input(stage), b"{}\n", content_type="application/x-ndjson")
    assert _kinds(stage) == set()
    assert _kinds(stage, deep=True) == {K.INPUT_GONE}


def test_a_sample_reads_some_files_only(stage: Stage) -> None:
    _ended(stage, 9)
    assert verify(stage.ledger, stage.artifacts, "b", sample=3).files == 3


def test_an_image_that_is_gone_with_its_rows_has_failed_with_a_code_of_its_own(stage: Stage) -> None:
    _ended(stage)
    for key in (OBJECTS.image(1, 0, Format.PNG), OBJECTS.shard(0), _input(stage)):
        stage.artifacts.delete(key)
    request_repair(stage.ledger, stage.artifacts, "b", Repair.OBJECTS)
    reconcile(stage.worker, "b")
    expand(stage.worker, "b")
    finalize(stage.worker, "b")
    assert stage.batch_state() is BatchState.COMPLETED
    assert stage.images() == ["succeeded", "failed", *["succeeded"] * 3]
    assert [(line["code"], line["index"]) for line in stage.lines("errors.jsonl")] == [(FailureCode.LOST, 1)]


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("body", [b"", b"\0", b'{"schema_version": 1}\n'], ids=["empty", "bytes", "of another kind"])
def test_results_that_are_gone_beside_a_damaged_marker(stage: Stage, body: bytes, emptied: bool) -> None:
    with _rolled_back(stage) if emptied else nullcontext():
        _ended(stage)
    launched = len(stage.node.launched)
    stage.artifacts.delete(OBJECTS.results)
    stage.artifacts.put(OBJECTS.marker(BatchState.COMPLETED), body, content_type="application/json")
    if emptied:
        for manifest in unknown_batches(stage.ledger, stage.artifacts, ended=True):
            recover_batch(stage.ledger, manifest)
        expand(stage.worker, "b")
        expand(stage.worker, "b")
        stage.finalized()
    else:
        assert K.RESULTS_DIFFER in _kinds(stage)
        _settled(stage)
    assert (stage.batch_state(), _verified(stage).ok) == (BatchState.COMPLETED, True)
    assert len(stage.lines("results.jsonl")) == 5
    assert len(stage.node.launched) == launched


class _Watched(Artifacts):
    """The bucket, with a look at the ledger before each object is removed, and an outage if that raises."""

    def __init__(self, settings: Settings, before_delete: Callable[[str], object]) -> None:
        super().__init__(settings)
        self._before_delete = before_delete

    def delete(self, key: str) -> None:
        self._before_delete(key)
        super().delete(key)


def test_results_are_there_as_long_as_the_batch_reads_as_ended(stage: Stage) -> None:
    _ended(stage)
    stage.artifacts.delete(OBJECTS.fragment(1))
    seen: list[tuple[str, BatchState]] = []
    artifacts = _Watched(stage.settings, lambda key: seen.append((key, stage.batch_state())))
    reconcile(replace(stage.worker, artifacts=artifacts), "b")
    assert OBJECTS.results in {key for key, _ in seen}
    assert {state for _, state in seen} == {BatchState.VALIDATING}
    assert _settled(stage) is BatchState.COMPLETED


def test_a_controller_that_dies_before_results_are_withdrawn(stage: Stage) -> None:
    _ended(stage)
    stage.artifacts.delete(OBJECTS.image(1, 0, Format.PNG))
    request_repair(stage.ledger, stage.artifacts, "b", Repair.OBJECTS)

    def die(_key: str) -> None:
        raise StoreUnavailable("the controller is killed here")

    with pytest.raises(StoreUnavailable):
        reconcile(replace(stage.worker, artifacts=_Watched(stage.settings, die)), "b")
    expand(stage.worker, "b")  # as its marker says: it has ended
    tick.request_next_step(stage.worker, "b")
    assert "tessera.reconcile" in stage.hints()
    assert reconcile(stage.worker, "b") is Reconciled.REBUILT
    assert _settled(stage) is BatchState.COMPLETED
    assert stage.images() == ["succeeded"] * 5


def test_redis_rolled_back_to_before_the_expansion(stage: Stage) -> None:
    stage.accepted(5)
    with _rolled_back(stage):
        expand(stage.worker, "b")
        stage.work()
        stage.finalized()
    assert K.JOBS_DIFFER in _kinds(stage)
    launched = len(stage.node.launched)
    assert _settled(stage) is BatchState.COMPLETED
    assert len(stage.node.launched) == launched


def test_redis_rolled_back_to_before_the_end(stage: Stage) -> None:
    stage.batch(5)
    with _rolled_back(stage):
        stage.work()
        stage.finalized()
    assert K.STATE_DIFFERS in _kinds(stage)
    launched = len(stage.node.launched)
    assert _settled(stage) is BatchState.COMPLETED
    assert len(stage.node.launched) == launched


def test_redis_rolled_back_to_before_a_retry_that_has_ended(stage: Stage) -> None:
    _with_a_failure(stage)
    with _rolled_back(stage):
        request_retry(stage.ledger, stage.artifacts, "b")
        reopen(stage.worker, "b")
        stage.work()
        stage.finalized()
    assert stage.images().count("failed") == 1
    assert _kinds(stage) == {K.IMAGE_STATES_DIFFER, K.COUNTS_DIFFER}
    assert _settled(stage) is BatchState.COMPLETED
    assert stage.images() == ["succeeded"] * 5


def test_redis_rolled_back_to_before_a_retry_that_is_under_way(stage: Stage) -> None:
    _with_a_failure(stage)
    with _rolled_back(stage):
        request_retry(stage.ledger, stage.artifacts, "b")
        reopen(stage.worker, "b")
    assert K.MARKER_GONE in _kinds(stage)
    assert _settled(stage) is BatchState.COMPLETED
    assert stage.images().count("failed") == 1  # the request is lost with Redis; it may be made again


@pytest.mark.parametrize("kept", [False, True])
def test_redis_rolled_back_to_before_a_purge(stage: Stage, kept: bool) -> None:
    _ended(stage)
    wanted = Purge.KEEP_IMAGES if kept else Purge.EVERYTHING
    with _rolled_back(stage):
        request_purge(stage.ledger, stage.artifacts, "b", wanted)
        purge(stage.worker, "b")
    assert _kinds(stage) == {K.PURGE_UNFINISHED if kept else K.GONE_FROM_BUCKET}
    assert reconcile(stage.worker, "b") is (Reconciled.PURGED if kept else Reconciled.REMOVED)
    if kept:
        tick.request_next_step(stage.worker, "b")
        purge(stage.worker, "b")
        assert _verified(stage).ok
    with pytest.raises(UnknownBatch):
        stage.ledger.batches.get("b")
    assert (stage.artifacts.head(OBJECTS.image(0, 0, Format.PNG)) is not None) is kept


def test_what_runs_of_a_batch_that_was_purged_is_ended(stage: Stage) -> None:
    stage.batch(1)
    specs: list[AttemptSpec] = []
    stage.node.play = lambda spec: [lambda: specs.append(spec), *stage.all_well(spec)]
    with _rolled_back(stage):
        stage.work()
        stage.finalized()
        request_purge(stage.ledger, stage.artifacts, "b", Purge.EVERYTHING)
        purge(stage.worker, "b")
    stage.node.put(specs[0])
    assert reconcile(stage.worker, "b") is Reconciled.REMOVED
    assert not stage.node.running


def test_another_batch_of_the_id_is_the_one_that_counts(stage: Stage) -> None:
    stage.batch(3)
    with _rolled_back(stage):
        stage.work()
        stage.finalized()
        request_purge(stage.ledger, stage.artifacts, "b", Purge.EVERYTHING)
        purge(stage.worker, "b")
        _ended(stage, 7)
    assert _kinds(stage) == {K.ANOTHER_BATCH}
    assert _settled(stage) is BatchState.COMPLETED
    assert stage.images() == ["succeeded"] * 7


def test_a_batch_that_redis_does_not_know_is_recovered(stage: Stage) -> None:
    with _rolled_back(stage):
        _ended(stage)
    assert _kinds(stage) == {K.UNKNOWN_TO_REDIS}
    request_repair(stage.ledger, stage.artifacts, "b", Repair.OBJECTS)
    tick.request_next_step(stage.worker, "b")
    expand(stage.worker, "b")
    assert (stage.batch_state(), _verified(stage).ok) == (BatchState.COMPLETED, True)


def test_a_cancelled_batch_stays_cancelled(stage: Stage) -> None:
    stage.batch(5)
    request_cancel(stage.ledger, "b")
    cancel(stage.worker, "b")
    stage.finalized()
    stage.artifacts.delete(OBJECTS.fragment(0))
    stage.artifacts.delete(OBJECTS.marker(BatchState.CANCELLED))
    assert _settled(stage) is BatchState.CANCELLED
    assert stage.images() == ["cancelled"] * 5
    assert stage.node.launched == []


def test_an_image_that_redis_counts_and_the_bucket_lost_in_mid_render_is_rendered_again(stage: Stage) -> None:
    stage.batch(5)

    def play(spec: AttemptSpec) -> Play:
        def lose() -> None:
            if spec.job_index == 1:
                stage.artifacts.delete(OBJECTS.image(0, 0, Format.PNG))

        return [lambda: stage.pods_work(spec), lose, SUCCEEDED]

    stage.node.play = play
    stage.work()
    assert _kinds(stage) == {K.IMAGE_GONE}
    stage.node.play = stage.all_well
    assert _settled(stage) is BatchState.COMPLETED
    assert stage.images() == ["succeeded"] * 5


def test_a_lost_hint_is_made_up_for_by_the_tick(stage: Stage) -> None:
    _ended(stage)
    request_repair(stage.ledger, stage.artifacts, "b", Repair.OBJECTS)
    tick.request_next_step(stage.worker, "b")
    assert "tessera.reconcile" in stage.hints()
    assert "b" in stage.ledger.batches.unfinished()
    reconcile(stage.worker, "b")
    assert "b" not in stage.ledger.batches.unfinished()


def test_nothing_is_done_while_the_controller_works_on_the_batch(stage: Stage) -> None:
    _ended(stage)
    stage.artifacts.delete(OBJECTS.marker(BatchState.COMPLETED))
    with stage.ledger.locks.only_one("finalize-b"):
        assert reconcile(stage.worker, "b") is Reconciled.BUSY
    assert reconcile(stage.worker, "b") is Reconciled.REBUILT


@pytest.mark.parametrize("cut", [False, True])
def test_a_picture_that_goes_between_the_end_of_its_job_and_that_of_its_batch_is_rendered_again(
    stage: Stage, cut: bool
) -> None:
    stage.batch(5)
    stage.work()
    key = OBJECTS.image(1, 0, Format.PNG)
    if cut:
        stage.artifacts.put(key, b"half", content_type="image/png")
    else:
        stage.artifacts.delete(key)
    stage.finalized()
    assert stage.artifacts.head(OBJECTS.marker(BatchState.COMPLETED)) is None
    assert stage.batch_state() is BatchState.VALIDATING
    expand(stage.worker, "b")
    stage.work()
    stage.finalized()
    assert stage.images() == ["succeeded"] * 5
    assert _verified(stage, deep=True).ok
    assert len(stage.node.launched) == 3


def test_pictures_that_a_late_list_hides_are_asked_for_by_their_keys(stage: Stage) -> None:
    stage.batch(5)
    stage.work()
    artifacts = _Late(stage.settings)
    finalize(replace(stage.worker, artifacts=artifacts), "b")
    assert (stage.batch_state(), len(stage.lines("results.jsonl"))) == (BatchState.COMPLETED, 5)
    assert artifacts.asked >= 5


class _Late(Artifacts):
    """A bucket whose lists show nothing yet."""

    asked = 0

    def sizes_between(self, first: str, last: str, page: int) -> Iterator[tuple[str, int]]:
        del first, last, page
        return iter(())

    def head(self, key: str) -> StoredObject | None:
        self.asked += 1
        return super().head(key)


@pytest.mark.parametrize(
    "harm", [lambda a: a.delete(OBJECTS.fragment(0)), lambda a: a.put(OBJECTS.fragment(0), b"{", content_type="x")]
)
@pytest.mark.parametrize("image_too", [False, True])
def test_a_batch_is_not_finalized_before_every_image_has_an_outcome(
    stage: Stage, harm: Callable[..., None], image_too: bool
) -> None:
    stage.batch(5)
    stage.work()
    harm(stage.artifacts)
    if image_too:
        stage.artifacts.delete(OBJECTS.image(1, 0, Format.PNG))
    stage.finalized()
    if image_too:
        assert stage.batch_state() is BatchState.VALIDATING
        expand(stage.worker, "b")
        stage.work()
        stage.finalized()
    assert stage.batch_state() is BatchState.COMPLETED
    assert [line["index"] for line in stage.lines("results.jsonl")] == list(range(5))
    assert _verified(stage).ok
    assert len(stage.node.launched) == 2 + image_too
