"""Show how a batch goes: a bar in a terminal, one line per change elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from pipeline.states import JobState
from pipeline.status import BatchStatus

_LIVE_JOBS = (JobState.WAITING_QUOTA, JobState.PENDING, JobState.LAUNCHING, JobState.RUNNING, JobState.RETRYING)


def summary(status: BatchStatus) -> str:
    """One line about a batch."""
    jobs = ", ".join(f"{status.jobs[state]} {state.value}" for state in _LIVE_JOBS if status.jobs[state])
    failed = f", {status.failed} failed" if status.failed else ""
    pods = f"; jobs: {jobs}" if jobs and not status.finished else ""
    return (
        f"{status.id} {status.state.value} {status.done}/{status.total} images{failed}{pods} {status.elapsed_s:.0f} s"
    )


class Progress:
    """Shows statuses of one batch on a stream, and says each thing once."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stream = stream
        self._said: tuple[object, ...] = ()
        self._bar: RichProgress | None = None
        if stream.isatty() and not quiet:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                console=Console(file=stream),
            )
            self._task = self._bar.add_task("waiting", total=None, detail="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, status: BatchStatus) -> None:
        """Show a status."""
        if self._quiet:
            return
        if self._bar:
            running = sum(status.jobs[state] for state in _LIVE_JOBS)
            detail = f"{running} {'pod' if running == 1 else 'pods'}" if running else ""
            if status.failed:
                detail += f" [red]{status.failed} failed[/red]"
            self._bar.update(
                self._task, description=status.state.value, total=status.total, completed=status.done, detail=detail
            )
            return
        news = (status.state, status.done, status.failed, *(status.jobs[state] for state in _LIVE_JOBS))
        if news != self._said:
            self._said = news
            print(summary(status), file=self._stream, flush=True)
