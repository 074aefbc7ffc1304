"""Files, uploads and the ledger's moves in the background, while the ranks render the next image.

Two lanes: uploads, several at a time and in any order, since a large file takes seconds to make and to send; and
reports to the ledger of what was uploaded, one thread. Each waits its own outages out, so that images go to the bucket
while Redis is away, and rendering goes on while S3 is, until as many pixels wait as memory may hold. Who renders asks
for `room` first, and never waits anywhere else.
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
from pipeline.errors import BatchLost, ClaimRefused, RecordUnreadable, ServiceError
from pipeline.ledger import Ledger
from pipeline.process.backoff import backoff_s
from pipeline.records.attempt import AttemptSpec
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageFailure, ImageResult, Outcome, outcome_lines
from pipeline.records.shards import ImageTask
from pipeline.states import ImageState

log = structlog.get_logger(__name__)

# Files that are made and sent at a time. PNG at 4096 px takes 2 s on one core, and zlib lets others run meanwhile.
UPLOADS = 4
# Pixels that wait for their upload: ten pictures of 4096 x 4096. One more may wait however large it is.
WAITING_BYTES = 512 << 20
# How long the end of a pod waits for Redis. Whoever settles the attempt reads the bucket, so nothing is lost with it.
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
    """Takes images from the renderer, and says in the end what became of each."""

    def __init__(
        self,
        identity: PodIdentity,
        ledger: Ledger,
        artifacts: Artifacts,
        stop: Callable[[str], None],
        spans: Spans | None = None,
    ) -> None:
        """`stop` is called, with the reason, when this pod may not go on: its claim is another's."""
        self.outcomes: dict[int, Outcome] = {}
        self._identity = identity
        self._ledger, self._artifacts, self._stop = ledger, artifacts, stop
        self._objects = BatchObjects(identity.spec.batch_id)
        self._refused = False
        self._waiting_bytes = 0
        self._last_report_at: float | None = None
        self._fewer = threading.Condition()
        self._spans = Spans() if spans is None else spans
        self._uploads, self._reports = _Lane("files", UPLOADS), _Lane("reports")
        self._fragment: int | None = None
        self._last: _Lane | None = None

    def room(self, within_s: float) -> bool:
        """Whether another image may be rendered: waits so long until enough of those that wait are uploaded.

        Raises what a lane ended with.
        """
        self._raise_if_broken()
        with self._fewer:
            return self._fewer.wait_for(lambda: self._waiting_bytes < WAITING_BYTES, within_s)

    def started(self, task: ImageTask) -> None:
        """This image is about to be rendered; returns when the ledger knows, or soon if it cannot be told.

        Not behind the uploads: if the pod dies of this image, the ledger must have it on record.
        """
        known = threading.Event()

        def mark() -> None:
            self._move(task, ImageState.RUNNING)
            known.set()

        self._reports.put(mark)
        known.wait(MARK_WITHIN_S)

    def rendered(self, task: ImageTask, result: ImageResult, pixels: Any) -> None:
        """Commit an image; `pixels` is uint8, height x width x 3."""
        with self._fewer:
            self._waiting_bytes += pixels.nbytes
        self._uploads.put(lambda: self._commit(task, result, pixels))

    def failed(self, task: ImageTask, failure: ImageFailure) -> None:
        """Write down why there is no such image."""
        self._uploads.put(lambda: self._fail(task, failure))

    def known(self, task: ImageTask, outcome: Outcome) -> None:
        """This image had an outcome before; bring the ledger up to it."""
        self._note(task, outcome)

    def refuse(self, reason: str) -> None:
        """The claim is another's: what is not uploaded yet must not be, for somebody else speaks for these images."""
        self._refused = True
        self._stop(reason)

    def finish(self, fragment: int | None) -> None:
        """Nothing more comes; write the job's fragment in the end if one is wanted."""
        self._fragment = fragment
        self._uploads.end()

    def finished(self, within_s: float) -> bool:
        """Wait so long until all is uploaded, and then reported as far as there is time for that.

        Raises what a lane ended with.
        """
        if not self._uploads.ended(within_s):
            return False
        self._raise_if_broken()
        if self._last is None:
            self._last = _Lane("fragment")
            if self._fragment is not None:
                self._last.put(lambda: self._write_fragment(self._fragment or 0))
            self._last.end()
        if not self._last.ended(within_s):
            return False
        self._raise_if_broken()
        if self._last_report_at is None:
            self._last_report_at = time.monotonic() + LAST_REPORTS_S
            self._reports.end()
        if self._reports.ended(within_s):
            self._raise_if_broken()
            return True
        if time.monotonic() < self._last_report_at:
            return False
        log.warning("ending without having told the ledger of every image; who settles the attempt does")
        return True

    def flush(self) -> None:
        """Finish without a fragment, and wait until all is uploaded and reported: for a pod that ends before its time.

        Raises what a lane ended with.
        """
        self.finish(None)
        while not self.finished(_FLUSH_LOOK_S):
            continue

    def _raise_if_broken(self) -> None:
        for lane in (self._uploads, self._reports, self._last):
            if lane is not None and lane.error is not None:
                raise lane.error

    def _patiently(self, action: Callable[[], object]) -> None:
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
            with self._spans.span("upload", **own):
                stands = commit_image(self._artifacts, self._objects, result, file)
            log.info("image committed", image=task.id, seconds=round(result.seconds, 2))
            self._note(task, stands)

        self._patiently(commit)
        with self._fewer:
            self._waiting_bytes -= pixels.nbytes
            self._fewer.notify()

    def _fail(self, task: ImageTask, failure: ImageFailure) -> None:
        def fail() -> None:
            commit_failure(self._artifacts, self._objects, failure)
            log.warning("image failed", image=task.id, code=failure.code.value, reason=failure.message)
            self._note(task, failure)

        self._patiently(fail)

    def _note(self, task: ImageTask, outcome: Outcome) -> None:
        self.outcomes[task.index] = outcome
        done = isinstance(outcome, ImageResult)
        self._reports.put(lambda: self._move(task, ImageState.SUCCEEDED if done else ImageState.FAILED))

    def _move(self, task: ImageTask, to: ImageState) -> None:
        def move() -> None:
            try:
                try:
                    self._tell(task, to)
                except ClaimRefused:
                    # A ledger that was lost and rebuilt has our attempt on record, and no pod yet.
                    if (refusal := self._identity.register(self._ledger)) is not None:
                        raise ClaimRefused(refusal) from None
                    self._tell(task, to)
            except BatchLost as error:
                # The bucket has it, and the ledger is rebuilt from there.
                log.warning("the ledger was not told of an image", image=task.id, state=to.value, reason=str(error))

        self._patiently(move)

    def _tell(self, task: ImageTask, to: ImageState) -> None:
        spec, uid = self._identity.spec, self._identity.uid
        self._ledger.images.move_by_pod(
            spec.batch_id, spec.job_ref, [task.index], to, pod=uid, attempt=spec.number, token=spec.token
        )

    def _write_fragment(self, job: int) -> None:
        body = outcome_lines(self.outcomes[index] for index in sorted(self.outcomes))
        key = self._objects.fragment(job)
        self._patiently(lambda: self._artifacts.put(key, body, content_type="application/x-ndjson"))


class _Lane:
    """Threads that do what they are given, begun in order; with one thread also ended in order."""

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
        """Nothing more comes."""
        for _ in self._threads:
            self._queue.put(None)

    def ended(self, within_s: float) -> bool:
        """Whether all that was given is done, within so long."""
        deadline = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        try:
            while (action := self._queue.get()) is not None:
                action()
        except BaseException as error:  # noqa: BLE001 - handed to the renderer, which raises it
            self.error = error
