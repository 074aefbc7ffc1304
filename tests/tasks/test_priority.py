"""A batch whose priority is changed after it was accepted."""

from __future__ import annotations

import pytest

from pipeline.errors import RequestError
from pipeline.operations.priority import request_priority
from tasks.control.expand import expand
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


def test_of_a_batch_that_has_ended_it_means_nothing(stage: Stage) -> None:
    stage.batch(1)
    stage.work()
    stage.finalized()
    with pytest.raises(RequestError, match="completed; its priority means nothing"):
        request_priority(stage.ledger, "b", 1)
    with pytest.raises(RequestError, match=r"0 \(first\) to 9"):
        request_priority(stage.ledger, "b", 10)
