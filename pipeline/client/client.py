"""The Python client.

from pipeline import Client

batch = Client().submit("prompts.jsonl", width=832, height=1216, steps=30)
batch.wait(progress=True)
for image in batch.images():
    image.save("renders")
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import structlog

from pipeline.client.connect import Connection, connect
from pipeline.client.progress import Counter, Progress
from pipeline.client.schedules import Schedules
from pipeline.deployment.broker import EXPAND, PURGE, REOPEN, TICK, celery_app, hint
from pipeline.errors import RequestError, TesseraError, UnknownBatch
from pipeline.ledger.workers import ALL, Drain, Worker
from pipeline.operations.cancel import request_cancel
from pipeline.operations.estimate import Estimate, Estimator
from pipeline.operations.pause import request_pause, request_unpause
from pipeline.operations.purge import is_purged, request_purge
from pipeline.operations.resume import check_lost, take_up, unknown_batches
from pipeline.operations.retry import Retried, request_retry
from pipeline.operations.status import BatchStatus, JobStatus, batch_status, jobs_status
from pipeline.operations.submit import TIMEOUT_S, Acceptance, Submission, accept, checked_options
from pipeline.outputs import download
from pipeline.outputs.contactsheet import contact_sheets
from pipeline.outputs.links import DEFAULT_LIFE, Link, links
from pipeline.outputs.replay import Difference, Likeness, differences, likeness, records_in, row_of
from pipeline.process.deadline import Deadline, OutOfTime
from pipeline.promptset.formats import InputFormat
from pipeline.promptset.keywords import Picture
from pipeline.promptset.source import Prompts, open_source
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.batch import Purge
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageResult
from pipeline.states import BatchState

if TYPE_CHECKING:
    from PIL.Image import Image

_LOOK_S = 1.0
_HINT_S = 10.0

log = structlog.get_logger(__name__)


class WaitTimeout(TesseraError):
    """The batch was not finished in time; it goes on."""


class ReplayFailed(TesseraError):
    """The image could not be rendered again; the message says why."""


class Client:
    """A deployment to submit to: the one that the environment names, or the local stack (`tessera up`)."""

    def __init__(self, connection: Connection | None = None) -> None:
        self._connection = connection or connect()

    @cached_property
    def _app(self) -> Any:
        return celery_app(self._connection.settings)

    @cached_property
    def schedules(self) -> Schedules:
        """Prompt sets that are rendered again and again."""
        return Schedules(self._connection, self._app)

    def submit(
        self,
        prompts: Prompts,
        *,
        batch_id: str | None = None,
        tenant: str = "default",
        priority: int = 5,
        batch_seed: int | None = None,
        skip_invalid: bool = False,
        timeout_s: float = TIMEOUT_S,
        input_format: InputFormat | None = None,
        **picture: Unpack[Picture],
    ) -> Batch:
        """Submit a prompt set and return its batch, which is then accepted as a whole.

        Args:
            prompts: path or s3:// URL of a prompt set (docs/manifests.md), "-" for standard input; or prompts, objects
                and `Row`s in memory.
            batch_id: your own id. Submitting the same rows under it again changes nothing.
            tenant: who shares fairly with whom.
            priority: 0 is served first, 9 last.
            batch_seed: where rows without a seed get theirs from; it follows from the batch id if not given.
            skip_invalid: leave invalid rows out, and list them in errors.jsonl, instead of refusing them all.
            timeout_s: how long Redis and S3 may take altogether; validating the rows is not counted.
            input_format: what the prompt set is, where its name does not say so.
            picture: what holds for rows that do not say it themselves: steps=20, size="832x1216", scheduler="Euler a"
                and all other fields of a row but prompt, custom_id, seed and metadata.

        Raises ManifestError with everything that is wrong with the rows, RequestError, or ServiceError when Redis or
        S3 cannot be used; nothing was accepted then, unless it is AcceptanceUnknown.
        """
        accepted = self.accept(
            Submission(
                prompts=prompts,
                defaults=checked_options(picture),
                batch_id=batch_id,
                tenant=tenant,
                priority=priority,
                seed=batch_seed,
                skip_invalid=skip_invalid,
                timeout_s=timeout_s,
                input_format=input_format,
            )
        )
        return self.batch(accepted.manifest.id)

    def accept(self, submission: Submission) -> Acceptance:
        """Submit, and say what was accepted."""
        accepted = accept(submission, self._connection.ledger, self._connection.artifacts)
        try:
            # Only a hint: the batch is accepted, and the controller finds it by itself.
            Deadline(_HINT_S).call("hinting", lambda: hint(self._app, EXPAND, accepted.manifest.id))
        except OutOfTime as error:
            log.warning("the broker did not take a hint; the next tick mends it", error=str(error))
        return accepted

    def estimate(
        self,
        prompts: Prompts,
        *,
        pods: int | None = None,
        input_format: InputFormat | None = None,
        skip_invalid: bool = False,
        **defaults: Any,
    ) -> Estimate:
        """What the prompt set would cost, before anything runs.

        Args:
            prompts, defaults: as in `submit`.
            pods: that would work at the same time; as many as workers have room for if not given.
            input_format: what the prompt set is, where its name does not say so.
            skip_invalid: leave invalid rows out instead of refusing them all.

        Raises ManifestError if a row is invalid, RequestError or ServiceError.
        """
        ledger = self._connection.ledger
        deployment = ledger.deployment()
        source = open_source(prompts, input_format=input_format, bucket=self._connection.artifacts)
        found, estimator = Validation(source.name), Estimator(deployment, ledger.speeds.all())
        for row in resolved_rows(source, checked_options(defaults), deployment, found, batch_seed=0):
            estimator.add(row)
        found.raise_if_refused(skip_invalid=skip_invalid)
        at_once = pods or max(1, sum(ledger.workers.free_slots().values()))
        return estimator.estimate(pods=at_once, left_out=found.invalid_rows)

    def replay(self, file: str | Path, *, timeout_s: float | None = None, progress: bool = False) -> Replay:
        """Render an image again as its record says, and compare.

        Args:
            file: the image; or its sidecar, or a results.jsonl with its line alone.
            timeout_s: how long to wait for it.
            progress: show it, as `Batch.wait` does.

        Raises RequestError if there is no record, or several; ReplayFailed, WaitTimeout, and as `submit` does.
        """
        found = list(records_in(Path(file)))
        if len(found) != 1:
            raise RequestError(f"{file} holds {len(found)} records; one wanted (`tessera extract` takes all)")
        (then,) = found
        batch = self.batch(self.accept(Submission([row_of(then.result)], checked_options({}))).manifest.id)
        batch.wait(timeout_s, progress=progress)
        for failure in batch.errors():
            raise ReplayFailed(f"batch {batch.id}: {failure.code.value}: {failure.message}")
        image = next(batch.images(), None)
        if image is None:
            raise ReplayFailed(f"batch {batch.id} was {batch.status().state.value} before the image was rendered")
        before = then.body or download.image_if_there(self._connection.artifacts, then.result)
        return Replay(
            batch_id=batch.id,
            then=then.result,
            image=image,
            differences=differences(then.result, image.result),
            compared=before is not None,
            likeness=None if before is None else likeness(before, image.bytes()),
        )

    def batch(self, batch_id: str) -> Batch:
        """A batch that was submitted before. Nothing is asked yet."""
        return Batch(self._connection, batch_id, self._app)

    def resume(self) -> list[str]:
        """Take up every accepted batch that Redis does not know, also those that have ended: after it lost its data.

        The controller then rebuilds them from the bucket and adopts what still runs. What Redis knows stays as it is.
        Returns the ids. Raises ServiceError.
        """
        ledger, artifacts = self._connection.ledger, self._connection.artifacts
        taken_up = [m.id for m in unknown_batches(ledger, artifacts, ended=True) if take_up(ledger, m)]
        hint(self._app, TICK)
        return taken_up

    def workers(self) -> list[Worker]:
        """The render workers that are alive."""
        return self._connection.ledger.workers.listing()

    def drain(self, worker: str | None, *, hand_over: bool = False) -> list[str]:
        """Give a worker, or every one (None), no more jobs; returns whom. See `undrain`.

        A name or a host will do. What they hold they look after to its end, or others do at once with `hand_over`;
        pods are left alone either way. Raises RequestError if there is no such worker.
        """
        workers = self._connection.ledger.workers
        names = self._named(worker)
        for name in [ALL] if worker is None else names:
            workers.drain(name, Drain.HAND_OVER if hand_over else Drain.FINISH)
        return names

    def undrain(self, worker: str | None) -> list[str]:
        """Give a worker, or all (None), jobs again; returns whom. Raises RequestError if there is no such worker."""
        workers = self._connection.ledger.workers
        names = self._named(worker)
        if worker is not None and workers.drained(ALL):
            raise RequestError("every worker is drained, this one with them: `tessera undrain --all` first")
        for name in [ALL, *names] if worker is None else names:
            workers.undrain(name)
        return names

    def _named(self, worker: str | None) -> list[str]:
        living = [one.name for one in self._connection.ledger.workers.listing()]
        named = [name for name in living if worker in (None, name) or name.partition("@")[2].startswith(f"{worker}-")]
        if worker is not None and not named:
            raise RequestError(f"no worker {worker!r}; alive: {', '.join(living) or 'none'}")
        return named

    def purgeable(self, batch_id: str) -> BatchStatus | None:
        """The status of a batch; None if only the rest of a purged one is there. Raises UnknownBatch, BatchLost."""
        try:
            return self.batch(batch_id).status()
        except UnknownBatch:
            if not is_purged(self._connection.artifacts, batch_id):
                raise
            return None

    def ended_before(self, age: timedelta) -> Iterator[BatchStatus]:
        """Batches that ended longer ago than this, oldest submission first."""
        ledger = self._connection.ledger
        return (batch_status(ledger, record.id) for record in ledger.batches.ended_before(ledger.now() - age))

    def batches(self, limit: int = 20) -> list[BatchStatus]:
        """The newest batches."""
        ledger = self._connection.ledger
        return [batch_status(ledger, record.id) for record in ledger.batches.newest(limit)]


@dataclass(frozen=True)
class Replay:
    """An image that was rendered again.

    Attributes:
        batch_id: of the batch that rendered it again.
        then: its record of the first time.
        image: the second one.
        differences: in how the two were made.
        compared: whether the first one's pixels were there to compare: in the file itself, or still in the bucket.
        likeness: of the pixels; None if they were not compared, or if the sizes differ.
    """

    batch_id: str
    then: ImageResult
    image: RenderedImage
    differences: list[Difference]
    compared: bool
    likeness: Likeness | None


class Batch:
    """A submitted batch."""

    def __init__(self, connection: Connection, batch_id: str, app: Any) -> None:
        self.id = batch_id
        self._connection, self._app = connection, app

    def __repr__(self) -> str:
        return f"Batch({self.id!r})"

    def status(self) -> BatchStatus:
        """How it stands now. Raises UnknownBatch, or BatchLost if it is in the bucket and Redis does not know it."""
        with self._known():
            return batch_status(self._connection.ledger, self.id)

    @contextmanager
    def _known(self) -> Iterator[None]:
        try:
            yield
        except UnknownBatch:
            check_lost(self._connection.artifacts, self.id)
            raise

    def jobs(self) -> list[JobStatus]:
        """Its jobs that are under way, at most 100, each with what it waits for and how its earlier attempts ended."""
        return jobs_status(self._connection.ledger, self.id)

    def updates(self, timeout_s: float | None = None) -> Iterator[BatchStatus]:
        """Its status now, and again whenever something moved or a second has passed, until it is finished.

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
                    f"batch {self.id} is {status.state} with {status.done} of {status.total} images done after "
                    f"{timeout_s:g} s; it goes on: `tessera watch {self.id}`"
                )
            events = self._connection.ledger.batches.events(self.id, after=after, wait_s=left)
            after = events[-1].id if events else after

    def wait(self, timeout_s: float | None = None, *, progress: bool = False) -> BatchStatus:
        """Wait until it is finished and return its status. Raises WaitTimeout.

        With `progress` a table lives in a terminal (on stderr) or below a notebook's cell, and lines appear elsewhere.
        """
        with Progress(sys.stderr, quiet=not progress) as shown:
            for status in self.updates(timeout_s):
                shown.show(status, self.jobs)
        return status

    def images(self) -> Iterator[RenderedImage]:
        """Its images in the order of the rows; those that are there so far while it runs."""
        artifacts = self._connection.artifacts
        return (RenderedImage(r, self._connection) for r in download.results(artifacts, BatchObjects(self.id)))

    def errors(self) -> Iterator[ImageFailure]:
        """The images that failed, and why."""
        return download.failures(self._connection.artifacts, BatchObjects(self.id))

    def download(self, folder: str | Path, *, progress: bool = False) -> Path:
        """Bring images, thumbnails, results.jsonl, errors.jsonl and gallery to a folder; returns the gallery's path.

        What is there and whole is not fetched again. `progress` shows it on stderr.
        """
        status = self.status()  # an unknown batch is an error, not an empty folder
        if status.purge:
            raise RequestError(f"batch {self.id} is being purged; what is left of it is not whole")
        with Counter(sys.stderr, f"{self.id} download", status.succeeded, quiet=not progress) as counter:
            return download.download(self._connection.artifacts, self.id, Path(folder), lambda _: counter.one_more())

    def links(self, life: timedelta = DEFAULT_LIFE) -> Iterator[Link]:
        """A link to each image that is there, which works without credentials until it expires, after 7 days at most.

        Whoever has a link may fetch its image: keep links out of logs. Raises RequestError.
        """
        self.status()
        artifacts = self._connection.artifacts
        return links(artifacts, download.results(artifacts, BatchObjects(self.id)), life)

    def contact_sheets(self, output: str | Path, *, columns: int = 6, rows: int = 8) -> list[Path]:
        """Write its images small on pages of `columns` x `rows`: `output`, output-002 and so on; returns the paths.

        Raises RequestError if the name's suffix is no format, or if no image is there yet.
        """
        self.status()
        artifacts = self._connection.artifacts
        images = download.results(artifacts, BatchObjects(self.id))
        fetch = partial(download.small_bytes, artifacts)
        return list(contact_sheets(images, fetch, Path(output), columns=columns, rows=rows))

    def retry(self, *codes: str) -> Retried:
        """Render again what failed and may succeed another time, or only failures of these codes (as "E_OOM").

        The batch must have ended; it is opened again and ends anew. What is committed stays. Raises RequestError.
        """
        with self._known():
            retried = request_retry(self._connection.ledger, self._connection.artifacts, self.id, codes)
        if retried.images:
            hint(self._app, REOPEN, self.id)
        return retried

    def pause(self) -> BatchState:
        """Let images that are being rendered finish, then free the GPUs; returns the state it is in now."""
        with self._known():
            return request_pause(self._connection.ledger, self.id)

    def unpause(self) -> BatchState:
        """Let it go on after `pause`; returns the state it is in now."""
        with self._known():
            state = request_unpause(self._connection.ledger, self.id)
        hint(self._app, TICK)
        return state

    def purge(self, *, keep_images: bool = False) -> None:
        """Have it removed from Redis and the bucket for good; with `keep_images`, all but what people look at.

        It must have ended. The controller removes it; until then its status says so. Raises RequestError.
        """
        wanted = Purge.KEEP_IMAGES if keep_images else Purge.EVERYTHING
        request_purge(self._connection.ledger, self._connection.artifacts, self.id, wanted)
        hint(self._app, PURGE, self.id)

    def cancel(self) -> BatchState:
        """Cancel what is not rendered yet; returns the state it is in now. What is committed stays."""
        with self._known():
            state = request_cancel(self._connection.ledger, self.id)
        hint(self._app, TICK)
        return state


class RenderedImage:
    """An image in the bucket."""

    def __init__(self, result: ImageResult, connection: Connection) -> None:
        self.result = result
        self._connection = connection

    def __repr__(self) -> str:
        return f"RenderedImage({self.result.image_id!r}, custom_id={self.result.custom_id!r})"

    def bytes(self) -> bytes:
        """The file, checked against its recorded digest."""
        return download.image_bytes(self._connection.artifacts, self.result)

    def open(self) -> Image:
        """The image for Pillow."""
        from PIL import Image

        return Image.open(io.BytesIO(self.bytes()))

    def save(self, folder: str | Path) -> Path:
        """Write the file as `<image id>.<suffix>` into a folder, which is made if need be; returns its path."""
        target = Path(folder) / self.result.key.rpartition("/")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.bytes())
        return target
