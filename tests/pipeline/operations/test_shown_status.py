"""How a notebook shows the status of a batch."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from pipeline.operations.status import BatchStatus
from pipeline.states import BatchState, ImageState, JobState

_AT = datetime(2026, 11, 28, 1, 2, 3, tzinfo=UTC)


def _status(state: BatchState, reason: str | None = None, **images: int) -> BatchStatus:
    return BatchStatus(
        id="b",
        state=state,
        reason=reason,
        created_at=_AT,
        updated_at=_AT + timedelta(seconds=7),
        seen_at=_AT + timedelta(seconds=7),
        images=Counter({ImageState(name): count for name, count in images.items()}),
        jobs=Counter({JobState.RUNNING: 2}),
        invalid_rows=0,
        labels={"project": "<atlas>"},
    )


class _Printer:
    """As much of IPython's as is used."""

    said = ""

    def text(self, text: str) -> None:
        self.said += text


def _line(status: BatchStatus) -> str:
    printer = _Printer()
    status._repr_pretty_(printer, False)
    return printer.said


def test_a_status_is_a_small_table_and_escapes_what_users_write() -> None:
    shown = _status(BatchState.IN_PROGRESS, succeeded=1, queued=2)._repr_html_()
    for cell in ("b", "in_progress", "1 succeeded, 2 queued", "2 running", "2026-11-28 01:02:03 UTC, 7 s"):
        assert f"<td>{cell}</td>" in shown
    assert "project=&lt;atlas&gt;" in shown
    assert "reason" not in shown


def test_in_a_list_it_is_one_line() -> None:
    assert _line(_status(BatchState.COMPLETED, succeeded=3)) == "b completed: 3 of 3 are there"
    failed = _status(BatchState.FAILED, "no <b>node</b>", failed=1, cancelled=2)
    assert _line(failed) == "b failed: 1 failed, 2 cancelled (no <b>node</b>)"
    assert "no &lt;b&gt;node&lt;/b&gt;" in failed._repr_html_()
