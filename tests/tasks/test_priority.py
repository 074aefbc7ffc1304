"""A batch whose priority is changed after it was accepted."""

from __future__ import annotations

import pytest

from pipeline.errors import RequestError
from pipeline.operations.priority import request_priority
from pipeline.operations.retry import request_retry
from pipeline.records.attempt import AttemptOutcome, Code
from tasks.app import render
from tasks.control.expand import expand
from tasks.control.reopen import reopen
from tasks.control.tick import request_next_step
from tests.tasks.stage import Stage


def test_jobs_that_wait_change_their_places_and_later_ones_follow(stage: Stage) -> None:
    stage.batch(4, "first")
    stage.batch(4, "second")
    stage.accepted(4, "third")
    for batch_id, priority in (("second", 1), ("third", 0)):
        request_priority(stage.ledger, batch_id, priority)
        request_next_step(stage.worker, batch_id)
        request_next_step(stage.worker, batch_id)  # once more changes nothing
    expand(stage.worker, "third")
    claimed = []
    while (lease := stage.ledger.leases.claim("w9", 60.0)) is not None:
        claimed.append(lease.job.ref)
    assert claimed == [f"{batch_id}/{index:05d}" for batch_id in ("third", "second", "first") for index in (0, 1)]


def _scores(stage: Stage) -> list[str]:
    store = stage.ledger.store
    return [store.redis.hget(store.keys.job(f"b/{index:05d}"), "score")[0] for index in range(2)]


def test_jobs_get_a_changed_priority_once_and_again_when_they_are_opened_again(stage: Stage) -> None:
    """The first digit of a job's score is its priority. What somebody else writes there shows that nobody writes it."""
    stage.batch(4)
    wrong = AttemptOutcome(Code.CONFIG_ERROR, "wrong", exit_code=78)
    stage.node.play = lambda spec: [wrong] if spec.job_index == 0 else stage.all_well(spec)
    render(stage.worker)
    request_priority(stage.ledger, "b", 3)
    request_next_step(stage.worker, "b")
    stage.finalized()
    request_retry(stage.ledger, stage.artifacts, "b")
    reopen(stage.worker, "b")
    request_next_step(stage.worker, "b")
    assert _scores(stage) == ["3", "3"]
    store, job = stage.ledger.store, stage.ledger.store.keys.job("b/00000")
    store.redis.hset(job, "score", "7" + store.redis.hget(job, "score")[1:])
    request_next_step(stage.worker, "b")
    assert _scores(stage)[0] == "7"
    request_priority(stage.ledger, "b", 4)
    request_next_step(stage.worker, "b")
    assert _scores(stage)[0] == "4"


def test_of_a_batch_that_has_ended_it_means_nothing(stage: Stage) -> None:
    stage.batch(1)
    stage.work()
    stage.finalized()
    with pytest.raises(RequestError, match="completed; its priority means nothing"):
        request_priority(stage.ledger, "b", 1)
    with pytest.raises(RequestError, match=r"0 \(first\) to 9"):
        request_priority(stage.ledger, "b", 10)
