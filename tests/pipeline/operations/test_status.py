"""What the status of a job says of its attempts."""

from __future__ import annotations

import pytest

from pipeline.operations.status import JobStatus
from pipeline.records.attempt import Code
from pipeline.records.batch import AttemptEnd
from pipeline.states import JobState
from tests.factories import at


def _job(attempt: int, *codes: Code) -> JobStatus:
    ended = tuple(AttemptEnd(number=n, code=code, reason="why", ended_at=at(n)) for n, code in enumerate(codes, 1))
    return JobStatus("b/00000", JobState.RUNNING, attempt, "", "1x1x1", "", ended)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (_job(1), "attempt 1"),
        (_job(2, Code.ENGINE_ERROR), "attempt 2 (1 failed)"),
        (_job(2, Code.PAUSED), "attempt 2"),
        (_job(4, Code.PREEMPTED, Code.OOM_KILLED, Code.NODE_LOST), "attempt 4 (1 failed, 2 disrupted)"),
    ],
)
def test_failures_and_disruptions_are_counted_apart(job: JobStatus, words: str) -> None:
    assert job.history == words
    assert job.as_dict()["failed_attempts"] == job.failed_attempts
    assert job.as_dict()["disruptions"] == job.disruptions
