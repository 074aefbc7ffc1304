"""A submitted batch, and its images."""

from __future__ import annotations

import html
import itertools
import sys
import time
from collections.abc import Callable, Container, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from pipeline.bucket import outcomes
from pipeline.client.completed import Completed
from pipeline.client.connection import Connection
from pipeline.client.image import RenderedImage
from pipeline.client.progress import Counter, Progress, summary
from pipeline.errors import (
    BatchLost,
    RecordTooNew,
    RecordUnreadable,
    RenderFailed,
    RequestError,
    UnknownBatch,
    WaitTimeout,
)
from pipeline.operations.cancel import request_cancel
from pipeline.operations.discrepancies import Verification
from pipeline.operations.failures import FailureGroup, failure_groups
from pipeline.operations.pause import request_pause, request_unpause
from pipeline.operations.priority import request_priority
from pipeline.operations.purge import request_purge
from pipeline.operations.repair import request_repair
from pipeline.operations.resume import check_lost
from pipeline.operations.retry import Retried, request_retry
from pipeline.operations.status import BatchStatus, JobStatus, batch_status, jobs_status
from pipeline.operations.verify import verify
from pipeline.outputs.contactsheet import contact_sheets
from pipeline.outputs.download import download
from pipeline.outputs.links import DEFAULT_LIFE, Link, links
from pipeline.records.batch import Purge, Repair
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageResult
from pipeline.states import BatchState

log = structlog.get_logger(__name__)

_LOOK_S = 1.0
# Images of a batch in a notebook.
_SHOWN = 12
_MEND_S, _MEND_LOOK_S = 20.0, 0.5

T = TypeVar("T")


class Batch:
    """A submitted batch."""

    def __init__(self, connection: Connection, batch_id: str) -> None:
        self.id = batch_id
        self._connection = connection

    def __repr__(self) -> str:
        return f"Batch({self.id!r})"

    def status(self) -> BatchStatus:
        """Its status now. Raises UnknownBatch, or BatchLost if it is in the bucket and Redis does not know it."""
        with self._known():
            return batch_status(self._connection.ledger, self.id)

    @contextmanager
    def _known(self) -> Iterator[None]:
        try:
            yield
        except UnknownBatch:
            check_lost(self._connection.artifacts, self.id)
            raise

    def _once_readable(self, act: Callable[[], T]) -> T:
        """What `act` returns. If the batch's record is damaged, the controller writes it again first."""
        until = time.monotonic() + _MEND_S
        while True:
            try:
                with self._known():
                    return act()
            except RecordTooNew:
                raise
            except RecordUnreadable:
                if time.monotonic() > until:
                    raise
                self._connection.ledger.wakes.ask(self.id)
                time.sleep(_MEND_LOOK_S)

    def jobs(self) -> list[JobStatus]:
        """Its jobs under way, at most 100, each with what it waits for and how its earlier attempts ended."""
        self._check_known()
        return jobs_status(self._connection.ledger, self.id)

    def updates(self, timeout_s: float | None = None) -> Iterator[BatchStatus]:
        """Its status now, and again whenever something changes or a second has passed, until it is finished.

        Raises WaitTimeout when `timeout_s` have passed before that.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        after = "$"
        while True:
            status = self.status()
            yield status
            if status.finished:
                return
            left = _LOOK_S if deadline is None else min(_LOOK_S, deadline - time.monotonic())
            if left <= 0:
                raise WaitTimeout(
                    f"batch {self.id} is {status.state} with {status.succeeded} of {status.total} images there after "
                    f"{timeout_s:g} s; it goes on: `tessera watch {self.id}`"
                )
            after = self._await_change(after, left)

    def _await_change(self, after: str, wait_s: float) -> str:
        """Wait until something has happened after this event, or so long; returns the last event."""
        events = self._connection.ledger.batches.events(self.id, after=after, wait_s=wait_s)
        return events[-1].id if events else after

    def wait(self, timeout_s: float | None = None, *, progress: bool = False) -> BatchStatus:
        """Wait until it is finished and return its status. Raises WaitTimeout.

        `progress` shows a live table on a terminal's stderr or below a notebook's cell, and lines elsewhere.
        """
        with Progress(sys.stderr, quiet=not progress) as shown:
            for status in self.updates(timeout_s):
                shown.show(status, self.jobs)
        return status

    def __await__(self) -> Generator[Any, None, BatchStatus]:
        """`await batch` waits until it is finished, without blocking others, and gives its status."""
        return self._finished().__await__()

    async def _finished(self) -> BatchStatus:
        import asyncio

        updates = self.updates()
        while not (status := await asyncio.to_thread(next, updates)).finished:
            continue
        return status

    def as_completed(self, timeout_s: float | None = None) -> Completed:
        """Its images as they are committed, for `for` and for `async for`: each once, until it has ended.

        Raises WaitTimeout, when `timeout_s` have passed before that, and UnknownBatch.
        """
        return Completed(
            self.updates(timeout_s),
            lambda known: (RenderedImage(one, self._connection) for one in self._results(known=known)),
        )

    def images(self) -> Iterator[RenderedImage]:
        """Its images in the order of the rows; while it runs, those that are there so far.

        A record that cannot be read is left out, with a line in the log. Raises UnknownBatch.
        """
        self._check_known()
        return (RenderedImage(result, self._connection) for result in self._results())

    def only_image(self) -> RenderedImage:
        """The image of a batch of one that has ended. Raises RenderFailed with why it is not there."""
        image = next(self.images(), None)
        if image is not None:
            return image
        for group in self.failure_groups():
            raise RenderFailed(f"{group.code.value}: {group.example.message}; what to do: {group.do} (batch {self.id})")
        status = self.status()
        raise RenderFailed(f"batch {self.id} is {status.state.value}" + (f": {status.reason}" if status.reason else ""))

    def _repr_html_(self) -> str:
        """How a notebook shows it: its status, and its first images."""
        pictures = "".join(image.thumbnail_html() for image in itertools.islice(self.images(), _SHOWN))
        return f"<div>{html.escape(summary(self.status()))}<br>{pictures}</div>"

    def errors(self) -> Iterator[ImageFailure]:
        """The images that failed, and why. A record that cannot be read is left out, with a line in the log."""
        self._check_known()
        return outcomes.failures(self._connection.artifacts, BatchObjects(self.id), _leave_out)

    def failure_groups(self) -> list[FailureGroup]:
        """Why images failed: the failures so far by code, each with an example and what to do about it."""
        self._check_known()
        return failure_groups(self._connection.artifacts, self.id)

    def _check_known(self) -> None:
        """Raise UnknownBatch unless Redis or the bucket knows it."""
        with suppress(BatchLost, RecordUnreadable):
            self.status()

    def _results(self, known: Container[str] = ()) -> Iterator[ImageResult]:
        return outcomes.results(self._connection.artifacts, BatchObjects(self.id), _leave_out, known=known)

    def download(self, folder: str | Path, *, progress: bool = False, overwrite: bool = False) -> Path:
        """Download images, thumbnails, results.jsonl, errors.jsonl and gallery; returns the gallery's path.

        Images that the folder has already are not fetched again. `progress` shows progress on stderr.

        Files of an earlier download of this batch are replaced if they differ. Others that are in the way stay, unless
        `overwrite`; links and folders in the way always do. Raises RequestError if the folder holds another batch or
        cannot be written, DownloadIncomplete if some files could not be downloaded, when all others are there.
        """
        status = self.status()  # an unknown batch is an error, not an empty folder
        if status.purge:
            raise RequestError(f"batch {self.id} is being purged, so it cannot be downloaded any more")
        with Counter(sys.stderr, f"{self.id} download", status.succeeded, quiet=not progress) as counter:
            artifacts, done = self._connection.artifacts, lambda _: counter.advance()
            return download(artifacts, self.id, Path(folder), done, overwrite=overwrite, accepted_at=status.created_at)

    def links(self, life: timedelta = DEFAULT_LIFE) -> Iterator[Link]:
        """A link to each image that is there, which works without credentials until it expires, after 7 days at most.

        Whoever has a link may fetch its image: keep links out of logs. Raises RequestError.
        """
        self.status()
        return links(self._connection.artifacts, self._results(), life)

    def contact_sheets(self, output: str | Path, *, columns: int = 6, rows: int = 8) -> list[Path]:
        """Write its thumbnails on pages of `columns` x `rows`: `output`, output-002 and so on; returns the paths.

        Raises RequestError if the suffix names no format that is known, or if no image is there yet.
        """
        self.status()
        fetch = partial(outcomes.thumbnail_if_there, self._connection.artifacts)
        return list(contact_sheets(self._results(), fetch, Path(output), columns=columns, rows=rows))

    def retry(self, *codes: str) -> Retried:
        """Render again the failures that a retry may mend, or those with these codes (such as "E_OOM").

        The batch must have ended; it is opened again, and ends again. Committed images stay. Raises RequestError.
        """
        with self._known():
            retried = request_retry(self._connection.ledger, self._connection.artifacts, self.id, codes)
        if retried.images:
            self._connection.ledger.wakes.ask(self.id)
        return retried

    def pause(self) -> BatchState:
        """Pause it: images that are being rendered finish, then the GPUs are free. Returns its state now."""
        return self._once_readable(lambda: request_pause(self._connection.ledger, self.id))

    def unpause(self) -> BatchState:
        """Continue it after `pause`. Returns its state now."""
        state = self._once_readable(lambda: request_unpause(self._connection.ledger, self.id))
        self._connection.ledger.wakes.ask(self.id)
        return state

    def prioritize(self, priority: int) -> None:
        """Have it served earlier or later: 0 first, 9 last. Jobs that run go on. Raises RequestError if it is over."""
        self._once_readable(lambda: request_priority(self._connection.ledger, self.id, priority))
        self._connection.ledger.wakes.ask(self.id)

    def purge(self, *, keep_images: bool = False) -> None:
        """Remove it from Redis and the bucket for good; `keep_images` keeps images, thumbnails, results and gallery.

        It must have ended. The controller removes it; until then its status shows it. Raises RequestError.
        """
        wanted = Purge.KEEP_IMAGES if keep_images else Purge.EVERYTHING
        request_purge(self._connection.ledger, self._connection.artifacts, self.id, wanted)
        self._connection.ledger.wakes.ask(self.id)

    def verify(self, *, repair: bool = False, deep: bool = False, sample: int = 0) -> Verification:
        """Compare what Redis says of it with what the bucket has, image by image; see `Verification.ok`.

        Args:
            repair: have the controller mend what is wrong; it goes on by itself, and a later verification shows it.
            deep: read the file of every image, compare it with its digest and its sidecar, and decode it.
            sample: read about so many of them.

        It works also if Redis does not know the batch, or knows it as it was before. Raises UnknownBatch if the bucket
        does not know it either.
        """
        connection = self._connection
        found = verify(connection.ledger, connection.artifacts, self.id, deep=deep, sample=sample)
        if repair and not found.ok:
            thorough = Repair.FILES if deep or sample else Repair.OBJECTS
            request_repair(connection.ledger, connection.artifacts, self.id, thorough)
            connection.ledger.wakes.ask(self.id)
        return found

    def cancel(self) -> BatchState:
        """Cancel the images that are not rendered yet; committed images stay. Returns its state now."""
        state = self._once_readable(lambda: request_cancel(self._connection.ledger, self.id))
        self._connection.ledger.wakes.ask(self.id)
        return state


def _leave_out(error: RecordUnreadable) -> None:
    log.warning("a record is left out: it cannot be read", reason=str(error))
