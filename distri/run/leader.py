"""What only the leader of a replica does: claim, decide, commit. The other ranks follow its signals."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Mapping

import structlog

from distri.model.image import Rendered
from distri.ranks.spans import Spans
from distri.run.committer import Committer, PodIdentity
from distri.run.input_pictures import InputPictures
from distri.run.input_pixels import InputLost
from distri.run.kept_tokens import BucketTokens
from distri.run.signals import LeaderSignal, LoadedShard
from distri.run.translate import outcome_of
from distri.sampling.control import Control
from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.job_outcomes import known_outcomes
from pipeline.bucket.trace import Trace
from pipeline.deployment.settings import Settings
from pipeline.errors import BatchLost, ClaimRefused, RecordUnreadable, ServiceError, StoreUnavailable, UnknownBatch
from pipeline.input_picture import InputPicture
from pipeline.ledger import Ledger
from pipeline.records.attempt import AttemptSpec, Code
from pipeline.records.object_keys import BatchObjects
from pipeline.records.provenance import Provenance
from pipeline.records.results import FailureCode, ImageFailure, ImageOutcome, failure_of
from pipeline.records.shards import ImageTask, images_of, parsed_shard
from pipeline.states import BatchState

log = structlog.get_logger(__name__)

WATCH_S = 1.0
# How long the leader waits for room, or for a service at the start, before it sends the others another WAIT: less than
# they wait in a collective, and than a pod that is asked to end may take.
WAIT_S = 5.0
# A pod that cannot begin within this time ends: its attempt fails, with the reason.
BEGIN_S, BEGIN_PAUSE_S = 120.0, 1.0


class Leader:
    """What one replica does with Redis and S3."""

    def __init__(self, spec: AttemptSpec, uid: str, settings: Settings, spans: Spans) -> None:
        self.spec, self._spans = spec, spans
        self.stopped_because: str | None = None
        self.stop_code = Code.DELETED
        self._paused = False
        self._interrupts = False
        self._ended = threading.Event()
        self._objects = BatchObjects(spec.batch_id)
        self._ledger, self._artifacts = Ledger(settings), Artifacts(settings)
        self._identity = PodIdentity(spec, uid)
        self._inputs = InputPictures(self._artifacts, self._objects)
        self.kept_tokens = BucketTokens(self._artifacts, self._objects)
        self._committer: Committer | None = None
        self._known: dict[int, ImageOutcome] = {}
        self._began = time.monotonic()

    def begin(self) -> LoadedShard | None:
        """Register this pod for its job and read its shard; None if a service is away: ask again.

        Raises ClaimRefused, RecordUnreadable; ServiceError if that has lasted for BEGIN_S.
        """
        try:
            self._claim()
            shard = self._load_shard()
            again = self.spec.number > 1  # nobody has rendered for the first attempt
            self._known = known_outcomes(self._artifacts, self._objects, self.spec.job_index, shard.tasks, by_key=again)
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

    def _load_shard(self) -> LoadedShard:
        body = self._artifacts.get(self.spec.shard_key)
        if body is None:
            raise StoreUnavailable(f"{self.spec.shard_key} is not in {self._artifacts.where}")
        return LoadedShard(body, images_of(parsed_shard(body, self.spec.shard_key)))

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

    def stop(self, reason: str, *, let_finish: bool = False) -> None:
        """Begin no other image, and end before the next evaluation; what is rendered is still committed.

        `let_finish`: the images that are being rendered may finish.
        """
        self._interrupts = self._interrupts or not let_finish
        if self.stopped_because is None:
            self.stopped_because = reason
            log.info("stopping", reason=reason)

    def end(self) -> None:
        """Look no more whether the batch is cancelled or paused: the job is over."""
        self._ended.set()

    def decide(self, task: ImageTask, *, wait: bool = True) -> LeaderSignal:
        """Whether to render this image: not if it had an outcome at the start, nor if this pod is to stop.

        WAIT after WAIT_S, or at once unless `wait`, if too many pictures wait for their upload.
        Asks neither S3 nor Redis: what another pod commits meanwhile is found by the commit itself. Only the picture
        that an image begins with is read, ahead, and waited for.
        """
        if self._paused and self.stopped_because is None:
            self.stop_code = Code.PAUSED
            self.stop("the batch is paused", let_finish=True)
        if self.stopped_because is not None:
            return LeaderSignal.STOP
        before = self._known.get(task.index)
        if before is None and not self.committer.wait_for_room(WAIT_S if wait else 0):
            if wait:
                log.warning("rendering waits until images are uploaded")
            return LeaderSignal.WAIT
        if before is not None:
            self.committer.report(task, before)
            log.info("image has an outcome already", image=task.id, status=before.status)
            return LeaderSignal.SKIP
        if not self._has_input(task, wait=wait):
            return LeaderSignal.SKIP if task.index in self._known else LeaderSignal.WAIT
        self.committer.mark_started(task)
        return LeaderSignal.RENDER

    def input_png(self, picture: InputPicture) -> bytes:
        """The file of a picture that an image is made of; it was read when the image was decided."""
        return self._inputs.png(picture)

    def control(self) -> Control:
        """Whether to go on, asked before every evaluation."""
        return Control.STOP if self._interrupts else Control.GO

    def commit(self, task: ImageTask, rendered: Rendered, provenance: Provenance) -> None:
        """Commit a rendered image, or record that it shows nothing."""
        outcome = outcome_of(task, self._objects, rendered, provenance)
        if isinstance(outcome, ImageFailure):
            self.committer.commit_failed(task, outcome)
        else:
            self.committer.commit_rendered(task, outcome, rendered.pixels)

    def fail(self, task: ImageTask, code: FailureCode, message: str) -> None:
        """Record why this image cannot be rendered."""
        self.committer.commit_failed(task, failure_of(task, code, message, retryable=False))

    def read_ahead(self, task: ImageTask) -> None:
        """Begin to read what an image begins with that is likely to be decided next."""
        for picture in task.row.inputs:
            self._inputs.ahead(picture)

    def _has_input(self, task: ImageTask, *, wait: bool) -> bool:
        """Whether what the image begins with is at hand; if it never will be, the image has failed."""
        for picture in task.row.inputs:
            self._inputs.ahead(picture)
        if not (wait or all(map(self._inputs.has, task.row.inputs))):
            return False
        try:
            for picture in task.row.inputs:
                self._inputs.png(picture)
        except StoreUnavailable as error:
            log.warning("rendering waits for the picture that an image begins with", reason=str(error))
            time.sleep(BEGIN_PAUSE_S if wait else 0)
            return False
        except InputLost as error:
            failure = failure_of(task, FailureCode.INPUT_LOST, str(error), retryable=True)
            self._known[task.index] = failure
            self.committer.commit_failed(task, failure)
            return False
        return True

    @property
    def outcomes(self) -> Mapping[int, ImageOutcome]:
        """What became of each image, by index."""
        return self.committer.outcomes

    def finish(self, fragment: int | None) -> None:
        """Take no more images; at the end write the job's fragment, if a number is given."""
        self.committer.finish(fragment)

    def flush(self) -> None:
        """Finish without a fragment, and wait until everything is uploaded and reported."""
        self.committer.flush()

    def wait_until_finished(self) -> LeaderSignal:
        """STOP once everything is uploaded and reported, else WAIT; `finish` comes first."""
        return LeaderSignal.STOP if self.committer.wait_until_finished(WAIT_S) else LeaderSignal.WAIT

    def store_trace(self, trace: Trace) -> None:
        """Put the attempt's trace into the bucket; nothing depends on it, so in an outage it is lost."""
        key = self._objects.trace(self.spec.job_index, self.spec.number)
        try:
            self._artifacts.put(key, trace.model_dump_json().encode(), content_type="application/json")
        except ServiceError as error:
            log.warning("the trace is lost", reason=str(error))

    def _watch(self) -> None:
        lost = False
        while not (self._interrupts or self._ended.is_set()):
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
                if not lost:  # Redis was emptied: it will be rebuilt from what we commit
                    log.warning("the ledger does not know this job; continuing", reason=str(error))
                lost = True
            except ServiceError as error:
                log.warning("cannot check for cancellation", reason=str(error))
            self._ended.wait(WATCH_S)
