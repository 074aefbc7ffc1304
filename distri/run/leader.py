"""What only the leader of a replica does: claim, decide, commit. Everybody else follows its words."""

from __future__ import annotations

import contextvars
import threading
from enum import IntEnum

import structlog

from distri.image import Rendered
from distri.run.committer import Committer, PodIdentity
from distri.run.translate import made_of
from distri.sampler import Control
from pipeline.artifacts import Artifacts
from pipeline.attempt import AttemptSpec, Code
from pipeline.commit import ForeignObject, committed_failure, committed_result
from pipeline.errors import BatchLost, ClaimRefused, ServiceError, StoreUnavailable, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.objects import BatchObjects
from pipeline.results import FailureCode, Outcome, Provenance, failure_of, result_of
from pipeline.settings import Settings
from pipeline.shards import ImageTask, Shard, parsed_shard
from pipeline.states import BatchState
from pipeline.trace import Trace

log = structlog.get_logger(__name__)

WATCH_S = 1.0


class Word(IntEnum):
    """What the leader says before each image."""

    RENDER = 0
    SKIP = 1
    STOP = 2


class Leader:
    """One replica's side towards Redis and S3."""

    def __init__(self, spec: AttemptSpec, uid: str, settings: Settings) -> None:
        self.spec = spec
        self.stopped_because: str | None = None
        self.stop_code = Code.DELETED
        self._paused = False
        self._objects = BatchObjects(spec.batch_id)
        self._ledger, self._artifacts = Ledger(settings), Artifacts(settings)
        self._identity = PodIdentity(spec, uid)
        self._committer: Committer | None = None

    def claim(self) -> None:
        """Register this pod for its job. Raises ClaimRefused or LedgerUnavailable."""
        try:
            refusal = self._identity.register(self._ledger)
        except BatchLost as error:
            refusal = str(error)
        if refusal is not None:
            raise ClaimRefused(f"this pod may not render {self.spec.job_ref}: {refusal}")
        self._committer = Committer(self._identity, self._ledger, self._artifacts, self.stop)
        target = contextvars.copy_context().run
        threading.Thread(target=target, args=(self._watch,), name="watch", daemon=True).start()

    def shard(self) -> Shard:
        """The rows of this job. Raises StoreUnavailable."""
        body = self._artifacts.get(self.spec.shard_key)
        if body is None:
            raise StoreUnavailable(f"{self.spec.shard_key} is not in {self._artifacts.where}")
        return parsed_shard(body)

    @property
    def claimed(self) -> bool:
        """Whether this pod has its claim."""
        return self._committer is not None

    @property
    def committer(self) -> Committer:
        """Where images go; there is one once the pod has its claim."""
        if self._committer is None:
            raise RuntimeError("claim first")
        return self._committer

    def stop(self, reason: str) -> None:
        """End before the next evaluation; what is rendered is still committed."""
        if self.stopped_because is None:
            self.stopped_because = reason
            log.info("stopping", reason=reason)

    def decide(self, task: ImageTask) -> Word:
        """Whether to render this image: not if it has an outcome, nor if this pod is to stop."""
        if self._paused and self.stopped_because is None:
            self.stop_code = Code.PAUSED
            self.stop("the batch is paused")
        if self.stopped_because is not None:
            return Word.STOP
        before = self._before(task)
        if before is not None:
            self.committer.known(task, before)
            log.info("image has an outcome already", image=task.id, status=before.status)
            return Word.SKIP
        self.committer.started(task)
        return Word.RENDER

    def control(self) -> Control:
        """Whether to go on, asked before every evaluation."""
        return Control.GO if self.stopped_because is None else Control.STOP

    def take(self, task: ImageTask, rendered: Rendered, provenance: Provenance) -> None:
        """Commit a rendered image, or write down that it shows nothing."""
        if not rendered.finite or rendered.blank:
            what = "holds values that are not finite" if not rendered.finite else "is of one colour"
            failure = failure_of(task, FailureCode.BLACK, f"the decoded picture {what}", retryable=True)
            self.committer.failed(task, failure)
            return
        seconds = rendered.encode_s + rendered.denoise_s + rendered.decode_s
        result = result_of(task, self._objects, provenance, round(seconds, 3), made_of(rendered, lean=provenance.lean))
        self.committer.rendered(task, result, rendered.pixels)

    def fail(self, task: ImageTask, code: FailureCode, message: str) -> None:
        """Write down why this image cannot be rendered."""
        self.committer.failed(task, failure_of(task, code, message, retryable=False))

    def keep(self, trace: Trace) -> None:
        """Put the attempt's trace into the bucket; it explains and decides nothing, so an outage only loses it."""
        key = self._objects.trace(self.spec.job_index, self.spec.number)
        try:
            self._artifacts.put(key, trace.model_dump_json().encode(), content_type="application/json")
        except ServiceError as error:
            log.warning("the trace is lost", reason=str(error))

    def _before(self, task: ImageTask) -> Outcome | None:
        try:
            return committed_result(self._artifacts, self._objects, task) or committed_failure(
                self._artifacts, self._objects, task
            )
        except ForeignObject as error:
            return failure_of(task, FailureCode.FOREIGN_OBJECT, str(error), retryable=True)
        except StoreUnavailable as error:
            # Rendering it twice is the lesser evil: the commit is conditional.
            log.warning("cannot ask whether the image is there", image=task.id, reason=str(error))
            return None

    def _watch(self) -> None:
        pause, lost = threading.Event(), False
        while self.stopped_because is None:
            try:
                state = self._ledger.batches.state(self.spec.batch_id)
                self._paused = state is BatchState.PAUSED  # the image that is being rendered may finish
                if state is BatchState.CANCELLING:
                    self.stop("the batch is being cancelled")
                # Also notices that the job went to another attempt.
                if refusal := self._identity.register(self._ledger):
                    self.stop(f"the claim is gone: {refusal}")
                lost = False
            except (UnknownBatch, BatchLost) as error:
                if not lost:  # Redis was emptied: what we commit is what it will be rebuilt from
                    log.warning("the ledger does not know this job; going on", reason=str(error))
                lost = True
            except ServiceError as error:
                log.warning("cannot look for cancellation", reason=str(error))
            pause.wait(WATCH_S)
