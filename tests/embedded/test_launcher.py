"""Every way in which a local attempt can end, and what it is called."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from embedded.attempts import AttemptStatus
from embedded.launcher import LocalLauncher, outcome
from pipeline.records.attempt import AttemptPhase, Code, PodReport
from tests.factories import attempt_spec, job_record

_OK = PodReport(code=Code.SUCCEEDED, committed=5).to_message()
_BAD = PodReport(code=Code.ENGINE_ERROR, message="shape", rank=1).to_message()
_TORCHRUN = "  exitcode  : -9 (pid: 77)\n  traceback : Signal 9 (SIGKILL) received by PID 77"


def _status(**values: Any) -> AttemptStatus:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return AttemptStatus(uid="u", phase=AttemptPhase.ENDED, started_at=now, ended_at=now, **values)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (_status(exit_code=0, message=_OK), Code.SUCCEEDED),
        (_status(exit_code=0, message=_OK, deadline_exceeded=True), Code.SUCCEEDED),
        (_status(exit_code=0, message=""), Code.UNKNOWN),
        (_status(exit_code=0, message=_BAD), Code.ENGINE_ERROR),
        (_status(exit_code=1, message=_OK), Code.UNKNOWN),
        (_status(exit_code=1, message=_BAD), Code.ENGINE_ERROR),
        (_status(exit_code=1, message=_BAD[:-5]), Code.UNKNOWN),
        (_status(exit_code=1, message='{"code": "NO_SUCH_CODE"}'), Code.UNKNOWN),
        (_status(exit_code=1, message="Killed by somebody"), Code.UNKNOWN),
        (_status(exit_code=1, log_tail=_TORCHRUN), Code.KILLED),
        (_status(exit_code=1, log_tail=_TORCHRUN, message=_BAD), Code.ENGINE_ERROR),
        (_status(exit_code=64, log_tail="Traceback"), Code.CONFIG_ERROR),
        (_status(exit_code=78), Code.CONFIG_ERROR),
        (_status(exit_code=78, message=_BAD), Code.ENGINE_ERROR),
        (_status(exit_code=78, deleted=True), Code.DELETED),
        (_status(exit_code=137, signal=9), Code.KILLED),
        (_status(exit_code=137, signal=9, message=_BAD), Code.ENGINE_ERROR),
        (_status(exit_code=143, signal=15), Code.UNKNOWN),
        (_status(exit_code=139, signal=11), Code.UNKNOWN),
        (_status(exit_code=137, signal=9, deadline_exceeded=True), Code.DEADLINE),
        (_status(exit_code=1, message=_BAD, deadline_exceeded=True), Code.DEADLINE),
        (_status(exit_code=137, signal=9, deleted=True), Code.DELETED),
        (_status(exit_code=1, deleted=True, deadline_exceeded=True), Code.DELETED),
        (_status(node_lost=True), Code.NODE_LOST),
        (_status(node_lost=True, message=_OK), Code.NODE_LOST),
        (_status(node_lost=True, deleted=True), Code.NODE_LOST),
    ],
)
def test_the_code_follows_from_the_status(status: AttemptStatus, code: Code) -> None:
    ended = outcome(status)
    assert ended.code is code
    assert ended.exit_code == status.exit_code


def test_the_report_is_handed_on_whatever_outranks_it() -> None:
    ended = outcome(_status(exit_code=1, message=_BAD, deadline_exceeded=True))
    assert ended.report is not None
    assert ended.report.rank == 1


def test_an_unknown_end_says_how_it_was_and_what_was_said_without_credentials() -> None:
    reason = outcome(_status(exit_code=1, message="half a wo", log_tail="at redis://me:secret@host/0")).reason
    assert "exit code 1" in reason
    assert "half a wo" in reason
    assert "redis://***@host/0" in reason


def test_an_attempt_whose_status_is_damaged_hides_no_other(tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path)
    specs = [attempt_spec(job_record(index=index)) for index in (0, 1)]
    for spec in specs:
        launcher.launch(spec)
    (tmp_path / "node" / "attempts" / f"{specs[0].name}.status.json").write_bytes(b"{")
    seen = launcher.observe()
    assert [seen[spec.name].phase for spec in specs] == [AttemptPhase.RUNNING, AttemptPhase.PENDING]
