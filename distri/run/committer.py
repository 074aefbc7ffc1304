"""Make files, upload them and tell the ledger in the background, while the ranks render the next image.

Two lanes: uploads, several at a time and in any order, since a large file takes seconds to make and to send; and
reports to the ledger of what was uploaded, one thread. Each waits for its own outages to end: images go to the
bucket while Redis is away, and rendering goes on while S3 is away, until too many pixels wait. The renderer calls
`wait_for_room` before each image, and waits nowhere else.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from distri.ranks.spans import Spans
from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.commit import commit_failure, commit_image
from pipeline.bucket.imagefile import image_file
from pipeline.bucket.job_outcomes import unreadable
from pipeline.errors import BatchLost, ClaimRefused, RecordUnreadable, ServiceError
from pipeline.ledger import Ledger
from pipeline.process.backoff import backoff_s
from pipeline.records.attempt import AttemptSpec
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageOutcome, ImageResult, outcome_lines
from pipeline.records.shards import ImageTask
from pipeline.states import ImageState

log = structlog.get_logger(__name__)

# Files that are made and sent at a time. PNG at 4096 px takes 2 s on one core, and zlib lets others run meanwhile.
UPLOADS = 4
# Pixels that wait for their upload: ten pictures of 4096 x 4096. One more may wait however large it is.
WAITING_BYTES = 512 << 20
# How long a pod that ends waits for Redis. Nothing is lost after that: whoever settles the attempt reads the bucket.
LAST_REPORTS_S = 60.0
OUTAGE_PAUSE_S = 0.2  # the first
_FLUSH_LOOK_S = 1.0
MARK_WITHIN_S = 1.0  # how long rendering waits for the ledger before each image


@dataclass(frozen=True)
class PodIdentity:
    """Who commits: an attempt, and the UID that its claim is registered under."""

    spec: AttemptSpec
    uid: str

    def register(self, ledger: Ledger) -> str | None:
        """Claim the right to report; None if it is ours, else why not. Raises BatchLost or LedgerUnavailable."""
        spec = self.spec
        return ledger.jobs.register_pod(spec.job_ref, attempt=spec.number, token=spec.token, uid=self.uid)


class Committer:
    """Takes images from the renderer; `outcomes` holds what became of each."""

    def __init__(
        self,
        identity: PodIdentity,
        ledger: Ledger,
        artifacts: Artifacts,
        stop: Callable[[str], None],
        spans: Spans | None = None,
    ) -> None:
        """`stop` is called, with the reason, when this pod may not go on: its claim is another's."""
        self.outcomes: dict[int, ImageOutcome] = {}
        self._identity = identity
        self._ledger, self._artifacts, self._stop = ledger, artifacts, stop
        self._objects = BatchObjects(identity.spec.batch_id)
        self._refused = False
        self._waiting_bytes = 0
        self._last_report_at: float | None = None
        self._room = threading.Condition()
        self._spans = Spans() if spans is None else spans
        self._uploads, self._reports = _Lane("files", UPLOADS), _Lane("reports")
        self._fragment: int | None = None
        self._fragment_lane: _Lane | None = None

    def wait_for_room(self, within_s: float) -> bool:
        """Whether another image may be rendered: waits at most so long until enough pixels are uploaded.

        Raises the exception that ended a lane.
        """
        self._raise_if_broken()
        with self._room:
            return self._room.wait_for(lambda: self._waiting_bytes < WAITING_BYTES, within_s)

    def mark_started(self, task: ImageTask) -> None:
        """Record that this image is about to be rendered; returns when the ledger has it, or after MARK_WITHIN_S.

        It does not queue behind the uploads: if the pod dies of this image, the ledger must have it on record.
        """
        known = threading.Event()

        def mark() -> None:
            self._move(task, ImageState.RUNNING)
            known.set()

        self._reports.put(mark)
        known.wait(MARK_WITHIN_S)

    def commit_rendered(self, task: ImageTask, result: ImageResult, pixels: Any) -> None:
        """Commit an image; `pixels` is uint8, height x width x 3."""
        with self._room:
            self._waiting_bytes += pixels.nbytes
        self._uploads.put(lambda: self._commit(task, result, pixels))

    def commit_failed(self, task: ImageTask, failure: ImageFailure) -> None:
        """Record why there is no such image."""
        self._uploads.put(lambda: self._fail(task, failure))

    def report(self, task: ImageTask, outcome: ImageOutcome) -> None:
        """Tell the ledger what became of an image that is in the bucket."""
        self.outcomes[task.index] = outcome
        done = isinstance(outcome, ImageResult)
        self._reports.put(lambda: self._move(task, ImageState.SUCCEEDED if done else ImageState.FAILED))

    def refuse(self, reason: str) -> None:
        """Stop uploading: another pod has the claim, and with it these images."""
        self._refused = True
        self._stop(reason)

    def finish(self, fragment: int | None) -> None:
        """Take no more images; at the end write the job's fragment, if a number is given."""
        self._fragment = fragment
        self._uploads.end()

    def wait_until_finished(self, within_s: float) -> bool:
        """Wait at most so long until everything is uploaded, and then reported as far as LAST_REPORTS_S allow.

        Raises the exception that ended a lane.
        """
        if not self._uploads.join(within_s):
            return False
        self._raise_if_broken()
        if self._fragment_lane is None:
            self._fragment_lane = _Lane("fragment")
            if self._fragment is not None:
                self._fragment_lane.put(lambda: self._write_fragment(self._fragment or 0))
            self._fragment_lane.end()
        if not self._fragment_lane.join(within_s):
            return False
        self._raise_if_broken()
        if self._last_report_at is None:
            self._last_report_at = time.monotonic() + LAST_REPORTS_S
            self._reports.end()
        if self._reports.join(within_s):
            self._raise_if_broken()
            return True
        if time.monotonic() < self._last_report_at:
            return False
        log.warning("ending before the ledger has every image; the worker that settles the attempt tells it")
        return True

    def flush(self) -> None:
        """Finish without a fragment, and wait until everything is uploaded and reported: for a pod that ends early.

        Raises the exception that ended a lane.
        """
        self.finish(None)
        while not self.wait_until_finished(_FLUSH_LOOK_S):
            continue

    def _raise_if_broken(self) -> None:
        for lane in (self._uploads, self._reports, self._fragment_lane):
            if lane is not None and lane.error is not None:
                raise lane.error

    def _retry_in_outages(self, action: Callable[[], object]) -> None:
        outages = 0  # in a row
        while not self._refused:
            try:
                action()
            except ClaimRefused as error:
                self.refuse(str(error))
            except RecordUnreadable:
                raise  # no outage
            except ServiceError as error:
                outages += 1
                pause_s = backoff_s(outages, first_s=OUTAGE_PAUSE_S)
                log.warning("waiting for an outage to end", reason=str(error), pause_s=pause_s)
                time.sleep(pause_s)
                continue
            return

    def _commit(self, task: ImageTask, result: ImageResult, pixels: Any) -> None:
        own = {"track": threading.current_thread().name, "image": task.id}
        with self._spans.span("file", **own):
            file = image_file(pixels, result)

        def commit() -> None:
            try:
                with self._spans.span("upload", **own):
                    stands = commit_image(self._artifacts, self._objects, result, file)
            except RecordUnreadable as error:  # another version has committed it meanwhile
                log.error("image is there and cannot be read", image=task.id, reason=str(error))
                self.report(task, unreadable(task, error))
                return
            log.info("image committed", image=task.id, seconds=round(result.seconds, 2))
            self.report(task, stands)

        self._retry_in_outages(commit)
        with self._room:
            self._waiting_bytes -= pixels.nbytes
            self._room.notify()

    def _fail(self, task: ImageTask, failure: ImageFailure) -> None:
        def fail() -> None:
            commit_failure(self._artifacts, self._objects, failure)
            log.warning("image failed", image=task.id, code=failure.code.value, reason=failure.message)
            self.report(task, failure)

        self._retry_in_outages(fail)

    def _move(self, task: ImageTask, to: ImageState) -> None:
        def move() -> None:
            try:
                try:
                    self._move_once(task, to)
                except ClaimRefused:
                    # A ledger that was lost and rebuilt has our attempt on record, and no pod yet.
                    if (refusal := self._identity.register(self._ledger)) is not None:
                        raise ClaimRefused(refusal) from None
                    self._move_once(task, to)
            except BatchLost as error:
                # The image is in the bucket, and the ledger is rebuilt from there.
                log.warning(
                    "the ledger has no record of the batch; an image is not reported",
                    image=task.id,
                    state=to.value,
                    reason=str(error),
                )

        self._retry_in_outages(move)

    def _move_once(self, task: ImageTask, to: ImageState) -> None:
        spec, uid = self._identity.spec, self._identity.uid
        self._ledger.images.move_by_pod(
            spec.batch_id, spec.job_ref, [task.index], to, pod=uid, attempt=spec.number, token=spec.token
        )

    def _write_fragment(self, job: int) -> None:
        body = outcome_lines(self.outcomes[index] for index in sorted(self.outcomes))
        key = self._objects.fragment(job)
        self._retry_in_outages(lambda: self._artifacts.put(key, body, content_type="application/x-ndjson"))


class _Lane:
    """Threads that run actions, started in order; one thread alone also finishes them in order."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self.error: BaseException | None = None
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = []
        for number in range(threads):
            # In this context, so that its log lines carry the same batch, job, attempt and rank.
            target = contextvars.copy_context().run
            own = f"{name} {number}" if threads > 1 else name
            self._threads.append(threading.Thread(target=target, args=(self._work,), name=own, daemon=True))
            self._threads[-1].start()

    def put(self, action: Callable[[], None]) -> None:
        self._queue.put(action)

    def end(self) -> None:
        """Take no more actions."""
        for _ in self._threads:
            self._queue.put(None)

    def join(self, within_s: float) -> bool:
        """Whether all actions are done, waiting at most so long."""
        deadline = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        try:
            while (action := self._queue.get()) is not None:
                action()
        except BaseException as error:  # noqa: BLE001 - the renderer raises it
            self.error = error
