"""What only the leader of a replica does: claim, decide, commit. Everybody else follows its words."""

from __future__ import annotations

import contextvars
import threading
import time
from enum import IntEnum

import structlog

from distri.model.image import Rendered
from distri.ranks.spans import Spans
from distri.run.committer import Committer, PodIdentity
from distri.run.translate import made_of
from distri.sampling.sampler import Control
from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.commit import known_outcomes
from pipeline.bucket.trace import Trace
from pipeline.deployment.settings import Settings
from pipeline.errors import BatchLost, ClaimRefused, RecordUnreadable, ServiceError, StoreUnavailable, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.records.attempt import AttemptSpec, Code
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, Outcome, Provenance, failure_of, result_of
from pipeline.records.shards import ImageTask, Shard, images_of, parsed_shard
from pipeline.states import BatchState

log = structlog.get_logger(__name__)

WATCH_S = 1.0
# How long the leader waits for room, or for a service at the start, before it tells the others to wait on: less than
# they wait in a collective, and than a pod that is asked to end may take.
WAIT_S = 5.0
# A pod that cannot begin for so long ends: its attempt fails, with the reason.
BEGIN_S, BEGIN_PAUSE_S = 120.0, 1.0


class Word(IntEnum):
    """What the leader says before each image."""

    RENDER = 0
    SKIP = 1
    STOP = 2
    WAIT = 3  # ask again


class Leader:
    """One replica's side towards Redis and S3."""

    def __init__(self, spec: AttemptSpec, uid: str, settings: Settings, spans: Spans) -> None:
        self.spec, self._spans = spec, spans
        self.stopped_because: str | None = None
        self.stop_code = Code.DELETED
        self._paused = False
        self._objects = BatchObjects(spec.batch_id)
        self._ledger, self._artifacts = Ledger(settings), Artifacts(settings)
        self._identity = PodIdentity(spec, uid)
        self._committer: Committer | None = None
        self._known: dict[int, Outcome] = {}
        self._began = time.monotonic()

    def begin(self) -> Shard | None:
        """Register this pod for its job and read what there is to do; None if a service is away: ask again.

        Raises ClaimRefused, RecordUnreadable; ServiceError if that has lasted for BEGIN_S.
        """
        try:
            self._claim()
            shard = self._shard()
            tasks = images_of(shard)
            self._known = known_outcomes(self._artifacts, self._objects, self.spec.job_index, tasks)
        except RecordUnreadable:
            raise  # no outage
        except ServiceError as error:
            if time.monotonic() - self._began > BEGIN_S:
                raise
            log.warning("waiting for an outage to end", reason=str(error))
            time.sleep(BEGIN_PAUSE_S)
            return None
        self._committer = Committer(self._identity, self._ledger, self._artifacts, self.stop, self._spans)
        target = contextvars.copy_context().run
        threading.Thread(target=target, args=(self._watch,), name="watch", daemon=True).start()
        return shard

    def _claim(self) -> None:
        try:
            refusal = self._identity.register(self._ledger)
        except BatchLost as error:
            refusal = str(error)
        if refusal is not None:
            raise ClaimRefused(f"this pod may not render {self.spec.job_ref}: {refusal}")

    def _shard(self) -> Shard:
        body = self._artifacts.get(self.spec.shard_key)
        if body is None:
            raise StoreUnavailable(f"{self.spec.shard_key} is not in {self._artifacts.where}")
        return parsed_shard(body, self.spec.shard_key)

    @property
    def claimed(self) -> bool:
        """Whether this pod has its claim."""
        return self._committer is not None

    @property
    def committer(self) -> Committer:
        """Where images go; there is one once the pod has begun."""
        if self._committer is None:
            raise RuntimeError("begin first")
        return self._committer

    def stop(self, reason: str) -> None:
        """End before the next evaluation; what is rendered is still committed."""
        if self.stopped_because is None:
            self.stopped_because = reason
            log.info("stopping", reason=reason)

    def decide(self, task: ImageTask) -> Word:
        """Whether to render this image: not if it had an outcome at the start, nor if this pod is to stop.

        Nothing is asked of S3 or Redis here: what somebody else commits meanwhile is found by the commit.
        """
        if self._paused and self.stopped_because is None:
            self.stop_code = Code.PAUSED
            self.stop("the batch is paused")
        if self.stopped_because is not None:
            return Word.STOP
        before = self._known.get(task.index)
        if before is None and not self.committer.room(WAIT_S):
            log.warning("rendering waits until images are uploaded")
            return Word.WAIT
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

    def finished(self) -> Word:
        """STOP once everything is uploaded and reported, else WAIT; `committer.finish` comes first."""
        return Word.STOP if self.committer.finished(WAIT_S) else Word.WAIT

    def keep(self, trace: Trace) -> None:
        """Put the attempt's trace into the bucket; it explains and decides nothing, so an outage only loses it."""
        key = self._objects.trace(self.spec.job_index, self.spec.number)
        try:
            self._artifacts.put(key, trace.model_dump_json().encode(), content_type="application/json")
        except ServiceError as error:
            log.warning("the trace is lost", reason=str(error))

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
                    self.committer.refuse(f"the claim is gone: {refusal}")
                lost = False
            except (UnknownBatch, BatchLost) as error:
                if not lost:  # Redis was emptied: what we commit is what it will be rebuilt from
                    log.warning("the ledger does not know this job; going on", reason=str(error))
                lost = True
            except ServiceError as error:
                log.warning("cannot look for cancellation", reason=str(error))
            pause.wait(WATCH_S)
