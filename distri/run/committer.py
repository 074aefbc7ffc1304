"""Files, uploads and the ledger's moves in the background, while the ranks render the next image.

One thread does them in order. The queue is short, so that a slow store slows rendering down instead of filling memory;
outages are waited out here, and rendering goes on until the queue is full.
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

from pipeline.artifacts import Artifacts
from pipeline.attempt import AttemptSpec
from pipeline.commit import ForeignObject, commit_failure, commit_image
from pipeline.errors import BatchLost, ClaimRefused, ServiceError
from pipeline.imagefile import image_file
from pipeline.ledger import Ledger
from pipeline.objects import BatchObjects
from pipeline.results import FailureCode, ImageFailure, ImageResult, Outcome, failure_of, outcome_lines
from pipeline.shards import ImageTask
from pipeline.states import ImageState

log = structlog.get_logger(__name__)

QUEUED_IMAGES = 4
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
MARK_WITHIN_S = 1.0


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
        self, identity: PodIdentity, ledger: Ledger, artifacts: Artifacts, stop: Callable[[str], None]
    ) -> None:
        """`stop` is called, with the reason, when this pod may not go on: its claim is another's."""
        self.outcomes: dict[int, Outcome] = {}
        self._identity = identity
        self._ledger, self._artifacts, self._stop = ledger, artifacts, stop
        self._objects = BatchObjects(identity.spec.batch_id)
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=QUEUED_IMAGES)
        self._error: BaseException | None = None
        self._refused = False
        self._begun: queue.SimpleQueue[tuple[ImageTask, threading.Event]] = queue.SimpleQueue()
        self._thread = self._in_background(self._work, "committer")
        self._in_background(self._mark, "marks")

    def _in_background(self, work: Callable[[], None], name: str) -> threading.Thread:
        # In this context, so that its log lines carry the same batch, job, attempt and rank.
        target = contextvars.copy_context().run
        thread = threading.Thread(target=target, args=(work,), name=name, daemon=True)
        thread.start()
        return thread

    def started(self, task: ImageTask) -> None:
        """This image is about to be rendered; returns when the ledger knows, or soon if it cannot be told.

        Not behind the uploads: if the pod dies of this image, the ledger must have it on record.
        """
        known = threading.Event()
        self._begun.put((task, known))
        known.wait(MARK_WITHIN_S)

    def _mark(self) -> None:
        while True:
            task, known = self._begun.get()
            while not self._begun.empty():  # after an outage only the newest matters
                task, known = self._begun.get()
            try:
                self._move(task, ImageState.RUNNING)
            except (ClaimRefused, ServiceError) as error:
                log.warning("the ledger does not know which image is rendered", image=task.id, reason=str(error))
            known.set()

    def rendered(self, task: ImageTask, result: ImageResult, pixels: Any) -> None:
        """Commit an image; `pixels` is uint8, height x width x 3. Blocks while too many wait."""
        self._put(lambda: self._commit(task, result, pixels))

    def failed(self, task: ImageTask, failure: ImageFailure) -> None:
        """Write down why there is no such image."""
        self._put(lambda: self._fail(task, failure))

    def known(self, task: ImageTask, outcome: Outcome) -> None:
        """This image had an outcome before; bring the ledger up to it."""
        self._put(lambda: self._note(task, outcome))

    def finish(self, fragment: int | None) -> None:
        """Wait until all is done, then write the job's fragment if one is wanted, and end the thread.

        Raises what the thread ended with, if it did not end well.
        """
        if fragment is not None:
            self._put(lambda: self._write_fragment(fragment))
        self._put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _put(self, action: Callable[[], None] | None) -> None:
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._queue.put(action, timeout=0.5)
            except queue.Full:
                continue
            return

    def _work(self) -> None:
        try:
            while (action := self._queue.get()) is not None:
                if not self._refused:
                    self._patiently(action)
        except BaseException as error:  # noqa: BLE001 - handed to the renderer, which raises it
            self._error = error

    def _patiently(self, action: Callable[[], None]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                action()
            except ClaimRefused as error:
                self._refused = True
                self._stop(str(error))
            except ServiceError as error:
                log.warning("waiting for an outage to end", reason=str(error), pause_s=pause_s)
                time.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
                continue
            return

    def _commit(self, task: ImageTask, result: ImageResult, pixels: Any) -> None:
        try:
            outcome: Outcome = commit_image(self._artifacts, self._objects, result, image_file(pixels, result))
        except ForeignObject as error:
            self._fail(task, failure_of(task, FailureCode.FOREIGN_OBJECT, str(error), retryable=True))
            return
        self._note(task, outcome)
        log.info("image committed", image=task.id, seconds=round(result.seconds, 2))

    def _fail(self, task: ImageTask, failure: ImageFailure) -> None:
        commit_failure(self._artifacts, self._objects, failure)
        self._note(task, failure)
        log.warning("image failed", image=task.id, code=failure.code.value, reason=failure.message)

    def _note(self, task: ImageTask, outcome: Outcome) -> None:
        done = isinstance(outcome, ImageResult)
        self._move(task, ImageState.SUCCEEDED if done else ImageState.FAILED)
        self.outcomes[task.index] = outcome

    def _move(self, task: ImageTask, to: ImageState) -> None:
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

    def _tell(self, task: ImageTask, to: ImageState) -> None:
        spec, uid = self._identity.spec, self._identity.uid
        self._ledger.images.move_by_pod(
            spec.batch_id, spec.job_ref, [task.index], to, pod=uid, attempt=spec.number, token=spec.token
        )

    def _write_fragment(self, job: int) -> None:
        body = outcome_lines(self.outcomes[index] for index in sorted(self.outcomes))
        self._artifacts.put(self._objects.fragment(job), body, content_type="application/x-ndjson")
