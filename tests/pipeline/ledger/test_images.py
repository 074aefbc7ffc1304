"""Images move under a pod's claim or a worker's lease, and their counters with them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pipeline.errors import BatchLost, ClaimRefused, LeaseLost
from pipeline.ledger import Ledger
from pipeline.ledger.jobs import QueuePlace
from pipeline.ledger.leases import Lease
from pipeline.records.batch import advance, changed
from pipeline.states import IMAGE_CODES, IMAGE_MOVES, ImageState, JobState
from tests.factories import INCARNATION, at, batch_record
from tests.pipeline.ledger.bench import Bench

REF = "b/00000"


@pytest.fixture
def claimed(ledger: Ledger, bench: Bench) -> str:
    """The fence of a lease on a job with attempt 1 on record, which pod `uid-1` has registered for."""
    ledger.batches.create(batch_record(images=8))
    bench.job()
    lease = bench.claimed()
    bench.launched(lease)
    assert ledger.jobs.register_pod(REF, attempt=1, token="token-1", uid="uid-1") is None
    return lease.fence


def test_the_first_pod_with_the_attempt_on_record_has_the_claim_and_may_ask_again(ledger: Ledger, claimed: str) -> None:
    assert ledger.jobs.register_pod(REF, attempt=1, token="token-1", uid="uid-1") is None
    refusal = ledger.jobs.register_pod(REF, attempt=1, token="token-1", uid="uid-2")
    assert refusal == "another pod has registered for this attempt"


def test_an_old_attempt_a_wrong_token_and_an_unknown_job_are_refused(
    ledger: Ledger, bench: Bench, claimed: str
) -> None:
    job = ledger.jobs.get(REF)
    assert job is not None
    ledger.jobs.write(advance(job, JobState.RETRYING, at=at(2)), QueuePlace.HELD, fence=claimed)
    retrying = ledger.jobs.get(REF)
    assert retrying is not None
    bench.launched(Lease(retrying, claimed), number=2)
    for attempt, token in ((1, "token-1"), (2, "token-1"), (2, ""), (3, "token-3")):
        refusal = ledger.jobs.register_pod(REF, attempt=attempt, token=token, uid="uid-1")
        assert refusal == f"attempt {attempt} is not the one on record (2)"
    assert ledger.jobs.register_pod(REF, attempt=2, token="token-2", uid="uid-2") is None
    with pytest.raises(BatchLost):
        ledger.jobs.register_pod("b/00007", attempt=1, token="", uid="u")
    with pytest.raises(BatchLost):
        ledger.images.move_by_pod("b", "b/00007", [0], ImageState.RUNNING, pod="u", attempt=1, token="token-1")
    with pytest.raises(ClaimRefused):
        ledger.images.move_by_pod("b", REF, [0], ImageState.RUNNING, pod="uid-1", attempt=1, token="token-1")


def test_a_job_that_never_had_an_attempt_takes_no_pod(ledger: Ledger, bench: Bench) -> None:
    bench.job()
    assert ledger.jobs.register_pod(REF, attempt=1, token="token-1", uid="u") is not None


def test_a_pod_of_a_job_that_is_over_is_refused(ledger: Ledger, claimed: str) -> None:
    job = ledger.jobs.get(REF)
    assert job is not None
    ledger.jobs.write(advance(job, JobState.CANCELLED, at=at(2)), QueuePlace.DONE, fence=claimed)
    assert ledger.jobs.register_pod(REF, attempt=1, token="token-1", uid="uid-1") == "the job is cancelled"


def test_a_pod_whose_attempt_was_settled_is_not_heard_any_more(ledger: Ledger, claimed: str) -> None:
    job = ledger.jobs.get(REF)
    assert job is not None
    ledger.jobs.write(advance(job, JobState.RETRYING, at=at(2)), QueuePlace.DELAYED, fence=claimed, delay_s=60)
    with pytest.raises(ClaimRefused):
        ledger.images.move_by_pod("b", REF, [0], ImageState.RUNNING, pod="uid-1", attempt=1, token="token-1")
    assert ledger.jobs.register_pod(REF, attempt=1, token="token-1", uid="uid-1") == "the job is retrying"


def test_a_pod_goes_on_while_its_job_changes_hands(ledger: Ledger, claimed: str) -> None:
    assert ledger.leases.release(REF, claimed)
    assert ledger.images.move_by_pod("b", REF, [0], ImageState.RUNNING, pod="uid-1", attempt=1, token="token-1") == 1
    assert ledger.jobs.register_pod(REF, attempt=1, token="token-1", uid="uid-1") is None


def test_the_registered_pod_moves_images_and_no_other(ledger: Ledger, claimed: str) -> None:
    assert ledger.images.move_by_pod("b", REF, [0, 3], ImageState.RUNNING, pod="uid-1", attempt=1, token="token-1") == 2
    for pod, attempt, token in (
        ("uid-2", 1, "token-1"),
        ("uid-1", 2, "token-1"),
        ("uid-1", 1, "token-2"),
        ("uid-1", 1, ""),
    ):
        with pytest.raises(ClaimRefused, match=f"pod {pod} no longer holds job b/00000"):
            ledger.images.move_by_pod("b", REF, [0], ImageState.SUCCEEDED, pod=pod, attempt=attempt, token=token)
    with pytest.raises(ClaimRefused):  # nor those of another batch
        ledger.images.move_by_pod("c", REF, [0], ImageState.RUNNING, pod="uid-1", attempt=1, token="token-1")
    states = ledger.images.states("b", range(4))
    assert states == [ImageState.RUNNING, ImageState.QUEUED, ImageState.QUEUED, ImageState.RUNNING]


def test_the_pod_goes_on_while_its_job_changes_hands(ledger: Ledger, bench: Bench, claimed: str) -> None:
    """The pod's claim and the worker's lease are fenced apart."""
    ledger.leases.release(REF, claimed)
    assert ledger.images.move_by_pod("b", REF, [0], ImageState.RUNNING, pod="uid-1", attempt=1, token="token-1") == 1
    bench.claimed("w2")
    assert ledger.images.move_by_pod("b", REF, [0], ImageState.SUCCEEDED, pod="uid-1", attempt=1, token="token-1") == 1


def test_a_worker_moves_images_under_its_lease_only(ledger: Ledger, claimed: str) -> None:
    assert ledger.images.move_by_worker("b", REF, [1], ImageState.FAILED, incarnation=INCARNATION, fence=claimed) == 1
    for fence in ("", "99"):
        with pytest.raises(LeaseLost):
            ledger.images.move_by_worker("b", REF, [2], ImageState.FAILED, incarnation=INCARNATION, fence=fence)
    assert ledger.images.states("b", [1, 2]) == [ImageState.FAILED, ImageState.QUEUED]


@pytest.mark.parametrize("before", list(ImageState))
@pytest.mark.parametrize("after", list(ImageState))
def test_redis_moves_an_image_exactly_as_the_table_says(
    ledger: Ledger, claimed: str, before: ImageState, after: ImageState
) -> None:
    if before is not ImageState.QUEUED:
        ledger.images.move_by_worker("b", REF, [5], before, incarnation=INCARNATION, fence=claimed)
    legal = after in IMAGE_MOVES.get(before, ())
    assert ledger.images.move_by_worker("b", REF, [5], after, incarnation=INCARNATION, fence=claimed) == int(legal)
    assert ledger.images.states("b", [4, 5, 6]) == [ImageState.QUEUED, after if legal else before, ImageState.QUEUED]


def test_the_same_move_twice_counts_once(ledger: Ledger, claimed: str) -> None:
    assert (
        ledger.images.move_by_worker("b", REF, [0, 0, 1], ImageState.SUCCEEDED, incarnation=INCARNATION, fence=claimed)
        == 2
    )
    assert (
        ledger.images.move_by_worker("b", REF, [0, 1], ImageState.SUCCEEDED, incarnation=INCARNATION, fence=claimed)
        == 0
    )
    assert ledger.batches.counts("b").images[ImageState.SUCCEEDED] == 2


def test_counters_are_the_sum_of_the_states_after_any_moves(ledger: Ledger) -> None:
    """A few hundred random moves, most of them in bulk, against a plain model of the table."""
    images, jobs = 1300, 3
    rng = random.Random(20260102)
    ledger.batches.create(batch_record(images=images))
    model = [ImageState.QUEUED] * images
    for _ in range(300):
        to = rng.choice(list(ImageState) if rng.random() < 0.2 else [ImageState.QUEUED, ImageState.RUNNING])
        chosen = rng.sample(range(images), rng.choice([1, 2, 40, 700]) if to is ImageState.RUNNING else 5)
        moved = ledger.images.move_by_worker(
            "b", f"b/{rng.randrange(jobs):05d}", chosen, to, incarnation=INCARNATION, fence=""
        )
        legal = [index for index in chosen if to in IMAGE_MOVES.get(model[index], ())]
        assert moved == len(legal)
        for index in legal:
            model[index] = to
    assert ledger.images.states("b", range(images)) == model
    counts = ledger.batches.counts("b").images
    assert counts == dict.fromkeys(ImageState, 0) | Counter(model)
    raw = bytes.fromhex(_hex(ledger))
    nibbles = [code for byte in raw for code in (byte >> 4, byte & 15)]
    assert nibbles[:images] == [IMAGE_CODES[state] for state in model][: len(nibbles)]
    assert min(Counter(model).values()) > 0


def _hex(ledger: Ledger) -> str:
    """The images' bitmap as it lies in Redis."""
    length = ledger.store.redis.strlen(ledger.store.keys.images("b"))
    field = ledger.store.redis.bitfield(ledger.store.keys.images("b"))
    for position in range(length):
        field.get("u8", f"#{position}")
    return "".join(f"{byte:02x}" for byte in field.execute())


def test_job_counters_follow_every_move(ledger: Ledger, bench: Bench) -> None:
    for index in range(3):
        bench.job("b", index)
    lease = bench.claimed()
    job = bench.launched(lease)
    for state in (JobState.PENDING, JobState.RUNNING, JobState.PENDING, JobState.RUNNING):
        job = advance(job, state, at=at(2))
        ledger.jobs.write(job, QueuePlace.HELD, fence=lease.fence)
    counts = ledger.batches.counts("b").jobs
    assert {state: n for state, n in counts.items() if n} == {JobState.QUEUED: 2, JobState.RUNNING: 1}
    ledger.jobs.write(advance(job, JobState.SUCCEEDED, at=at(3)), QueuePlace.DONE, fence=lease.fence)
    counts = ledger.batches.counts("b").jobs
    assert {state: n for state, n in counts.items() if n} == {JobState.QUEUED: 2, JobState.SUCCEEDED: 1}


def test_an_image_that_begins_or_waits_again_is_no_news_and_one_that_is_over_is(ledger: Ledger, claimed: str) -> None:
    for state in (ImageState.RUNNING, ImageState.QUEUED, ImageState.SUCCEEDED):
        assert ledger.images.move_by_worker("b", REF, [2], state, incarnation=INCARNATION, fence=claimed) == 1
    events = ledger.batches.events("b", after="0", wait_s=0.01)
    assert [(event.name, event.state) for event in events if event.what == "image"] == [("2", "succeeded")]


def test_a_job_that_stays_in_its_state_is_no_news(ledger: Ledger, claimed: str) -> None:
    job = ledger.jobs.get(REF)
    assert job is not None
    before = ledger.batches.events("b", after="0", wait_s=0.01)
    ledger.jobs.write(changed(job, at=at(2), confirmed=True), QueuePlace.HELD, fence=claimed)
    assert ledger.batches.events("b", after="0", wait_s=0.01) == before


def test_a_job_has_begun_from_its_first_attempt_on_until_it_is_over(ledger: Ledger, bench: Bench, claimed: str) -> None:
    bench.job("b", 1)
    job = ledger.jobs.get(REF)
    assert job is not None
    assert ledger.jobs.begun("b", 10) == [job]
    ledger.jobs.write(advance(job, JobState.CANCELLED, at=at(2)), QueuePlace.DONE, fence=claimed)
    assert ledger.jobs.begun("b", 10) == []


def _moved_by_pod(ledger: Ledger, *indices: int) -> int:
    return ledger.images.move_by_pod("b", REF, indices, ImageState.RUNNING, pod="uid-1", attempt=1, token="token-1")


@pytest.mark.parametrize("wild", [8, 999, 10**9, 10**18, -1])
@pytest.mark.parametrize("known", [True, False], ids=["its images are on record", "they are not"])
def test_no_image_beyond_the_batch_is_moved_by_anybody(
    ledger: Ledger, bench: Bench, claimed: str, known: bool, wild: int
) -> None:
    """One SET at a far offset would cost Redis half a gigabyte."""
    if known:
        _with_images(ledger, claimed, "0-7")
    for indices in ((wild,), (0, wild)):
        with pytest.raises(ClaimRefused, match="are none of job b/00000; none was moved"):
            _moved_by_pod(ledger, *indices)
    with pytest.raises(ValueError, match="none of job"):
        ledger.images.move_by_worker("b", REF, [wild], ImageState.FAILED, incarnation=INCARNATION, fence=claimed)
    assert ledger.store.redis.strlen(ledger.store.keys.images("b")) <= 4
    assert ledger.batches.counts("b").images[ImageState.QUEUED] == 8
    assert _moved_by_pod(ledger, 0, 7) == 2


def _with_images(ledger: Ledger, fence: str, indices: str) -> None:
    job = ledger.jobs.get(REF)
    assert job is not None
    ledger.jobs.write(changed(job, at=at(3), indices=indices), QueuePlace.HELD, fence=fence)


def test_a_pod_moves_the_images_of_its_job_and_of_no_other(ledger: Ledger, bench: Bench, claimed: str) -> None:
    _with_images(ledger, claimed, "1-3,6")
    assert _moved_by_pod(ledger, 1, 3, 6) == 3
    for other in (0, 4, 5, 7):
        with pytest.raises(ClaimRefused):
            _moved_by_pod(ledger, 2, other)
    assert ledger.images.states("b", [2]) == [ImageState.QUEUED]
