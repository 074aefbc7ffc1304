"""Show the progress of a batch: a live table in a terminal or a notebook, and a line now and then elsewhere."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.client.rate import Throughput
from pipeline.operations.status import BatchStatus, JobStatus
from pipeline.states import BatchState, JobState

# However often images end, nobody reads faster, and listing the jobs asks Redis for their records.
_PODS_EVERY = timedelta(seconds=1)
_LINE_EVERY = timedelta(seconds=10)
_PODS_SHOWN = 12
_NOTEBOOK_COLUMNS = 110

_LIVE_JOBS = (JobState.WAITING_QUOTA, JobState.PENDING, JobState.LAUNCHING, JobState.RUNNING, JobState.RETRYING)

Jobs = Callable[[], Sequence[JobStatus]]


def summary(status: BatchStatus, throughput: Throughput | None = None) -> str:
    """One line about a batch."""
    jobs = ", ".join(f"{status.jobs[state]} {state.value}" for state in _LIVE_JOBS if status.jobs[state])
    not_there = "".join(
        f", {count:,} {name}" for name, count in (("failed", status.failed), ("cancelled", status.cancelled)) if count
    )
    pods = f"; jobs: {jobs}" if jobs and not status.finished else ""
    rate = f"; {text}" if (text := _rate(status, throughput)) else ""
    purged = ", being purged" if status.purge else ""
    return (
        f"{status.id} {status.state.value}{purged} {status.succeeded}/{status.total} images{not_there}{rate}{pods} "
        f"{duration(status.elapsed_s)}"
    )


def event(status: BatchStatus, jobs: Sequence[JobStatus], throughput: Throughput) -> dict[str, Any]:
    """The status of a batch, JSON-able, with its throughput (null: too early to say) and its pods."""
    rate, left_s = throughput.images_a_minute, throughput.left_s(status.total)
    if not _is_rendering(status):
        rate = left_s = None
    return status.as_dict() | {
        "images_per_minute": None if rate is None else round(rate, 2),
        "eta_s": None if left_s is None else round(left_s),
        "under_way": [job.as_dict() for job in jobs],
    }


def duration(seconds: float) -> str:
    """A duration as people write it: 45 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Shows the progress of one batch on a stream, or below a notebook's cell."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._quiet, self._stream = quiet, stream
        self._throughput = Throughput()
        self._jobs: Sequence[JobStatus] = ()
        self._jobs_at: datetime | None = None
        self._printed: tuple[object, ...] = ()
        self._printed_at: datetime | None = None
        self._cell = None if quiet else _notebook_cell()
        terminal = stream.isatty() and not quiet and self._cell is None
        self._live = Live(console=Console(file=stream), refresh_per_second=4) if terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, status: BatchStatus, jobs: Jobs) -> None:
        """Show a status; `jobs` is called once in a while, where a table is shown."""
        if self._quiet:
            return
        self._throughput.record(status.done, status.seen_at)
        if self._live is None and self._cell is None:
            self._print_line(status)
            return
        if status.finished:
            self._jobs = ()
        elif self._jobs_at is None or status.seen_at - self._jobs_at >= _PODS_EVERY:
            self._jobs, self._jobs_at = jobs(), status.seen_at
        table = _table(status, self._jobs, self._throughput)
        if self._live:
            self._live.update(table)
        elif self._cell is not None:
            self._cell.update({"text/html": _html(table), "text/plain": summary(status, self._throughput)}, raw=True)

    def _print_line(self, status: BatchStatus) -> None:
        news = (status.state, status.done, status.failed, status.reason, *(status.jobs[state] for state in _LIVE_JOBS))
        changed_state = self._printed[:1] != news[:1]
        waited = self._printed_at is None or status.seen_at - self._printed_at >= _LINE_EVERY
        if changed_state or (waited and news != self._printed):
            self._printed, self._printed_at = news, status.seen_at
            print(summary(status, self._throughput), file=self._stream, flush=True)


class Counter:
    """Shows how much of something is done: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO, what: str, total: int, *, quiet: bool = False) -> None:
        self._what, self._total, self._stream, self._quiet = what, total, stream, quiet
        self._done, self._printed_at = 0, time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        terminal = stream.isatty() and not quiet
        self._bar = RichProgress(*columns, console=Console(file=stream)) if terminal else None
        self._task = self._bar.add_task(what, total=total) if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self) -> None:
        """Count one more as done."""
        self._done += 1
        if self._bar and self._task is not None:
            self._bar.advance(self._task)
        elif not self._quiet and time.monotonic() - self._printed_at >= _LINE_EVERY.total_seconds():
            self._printed_at = time.monotonic()
            print(f"{self._what} {self._done}/{self._total}", file=self._stream, flush=True)


def _is_rendering(status: BatchStatus) -> bool:
    return status.state in (BatchState.VALIDATING, BatchState.IN_PROGRESS) and status.done < status.total


def _rate(status: BatchStatus, throughput: Throughput | None) -> str:
    if throughput is None or not _is_rendering(status) or (rate := throughput.images_a_minute) is None:
        return ""
    return f"{rate:.3g} images/min, about {duration(throughput.left_s(status.total) or 0)} left"


def _table(status: BatchStatus, jobs: Sequence[JobStatus], throughput: Throughput) -> RenderableType:
    head = Text(f"{status.id} {status.state.value}", style="bold", no_wrap=True)
    head.append(f"  {duration(status.elapsed_s)}", style="not bold dim")
    line = Table.grid(padding=(0, 2))
    not_there = Text(f"{status.failed} failed" if status.failed else "", style="red")
    if status.cancelled:
        not_there.append(f"{' ' if status.failed else ''}{status.cancelled} cancelled", style="yellow")
    for _ in range(3):
        line.add_column(no_wrap=True)
    line.add_row(
        ProgressBar(total=max(1, status.total), completed=status.done, width=16),
        Text(f"{status.succeeded}/{status.total} images"),
        not_there,
        Text(_rate(status, throughput), no_wrap=True, overflow="ellipsis"),
    )
    if not jobs:
        return Group(head, line)
    pods = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("job", "pod", "attempt", "layout"):
        pods.add_column(title, no_wrap=True)
    pods.add_column("")
    for job in jobs[:_PODS_SHOWN]:
        detail = Text(job.detail, no_wrap=True, overflow="ellipsis")
        pods.add_row(job.ref.rpartition("/")[2], job.state.value, job.history_short, job.layout, detail)
    more = [Text(f"and {len(jobs) - _PODS_SHOWN} more", style="dim")] if len(jobs) > _PODS_SHOWN else []
    return Group(head, line, pods, *more)


def _html(table: RenderableType) -> str:
    console = Console(file=io.StringIO(), record=True, width=_NOTEBOOK_COLUMNS, force_jupyter=False)
    console.print(table)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def _notebook_cell() -> Any:
    """IPython's display below the running cell, if this is a notebook's kernel; None elsewhere.

    It needs no widgets, so it works wherever a notebook shows HTML.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None:
        return None
    return sys.modules["IPython"].display.display({"text/plain": ""}, raw=True, display_id=True)
