"""The other side of a job: a launcher whose attempts a test plays, and a pod that commits without rendering."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.commit import commit_failure, commit_image, committed_failure, committed_result
from pipeline.errors import ServiceError
from pipeline.ledger import Ledger
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec, LaunchResult, NameTaken, Observation
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageFailure, ImageOutcome, ImageResult, failure_of, outcome_lines
from pipeline.records.shards import ImageTask, images_of, parsed_shard
from pipeline.states import ImageState
from tests.factories import file_of, image_result

# What an attempt shows at one look after the other: it stays at the last. Functions are called on the way; an outcome
# that one returns is the attempt's. A phase comes with the cluster's words, if it has any.
Step = AttemptPhase | tuple[AttemptPhase, str] | AttemptOutcome | Callable[[], object]
Play = Sequence[Step]


class Killed(BaseException):
    """The worker is gone in the middle of a step, as by SIGKILL: nothing after it happens."""


class Node:
    """A `pipeline.records.attempt.Launcher` in memory."""

    def __init__(self, play: Callable[[AttemptSpec], Play]) -> None:
        self.play = play
        self.launched: list[str] = []  # created, not adopted
        self.deleted: list[str] = []
        self.forgets = False  # a name that was there and is gone may be created again, as in a cluster
        self.copies: dict[str, str] = {}  # models whose weights somebody still copies, and who
        self.outage = 0  # how many calls are refused
        self.kills: set[str] = set()  # "before launch", "after launch", "before delete": where a worker dies, once
        self._specs: dict[str, AttemptSpec] = {}
        self._left: dict[str, list[Step]] = {}
        self._lock = threading.RLock()

    def _passed(self, point: str) -> None:
        if point in self.kills:
            self.kills.remove(point)
            raise Killed(point)

    def _reached(self) -> None:
        if self.outage > 0:
            self.outage -= 1
            raise ServiceError("the cluster does not answer")

    def awaits(self, models: Collection[str]) -> str | None:
        """What the first of these models waits for."""
        return next((self.copies[model] for model in models if model in self.copies), None)

    def launch(self, spec: AttemptSpec) -> LaunchResult:
        """Create or adopt."""
        with self._lock:
            self._reached()
            self._passed("before launch")
            if spec.name in self._specs:
                if self._specs[spec.name].digest != spec.digest:
                    raise NameTaken(spec.name, self._specs[spec.name].digest, spec.digest)
                return LaunchResult.ADOPTED
            if spec.name in self.launched and not self.forgets:
                raise NameTaken(spec.name, "none, for it was deleted", spec.digest)
            self._specs[spec.name] = spec
            self._left[spec.name] = list(self.play(spec))
            self.launched.append(spec.name)
            self._passed("after launch")
            return LaunchResult.CREATED

    def observe(self) -> Mapping[str, Observation]:
        """Everything that is there, each one step further in its play."""
        with self._lock:
            self._reached()
            return {name: self._seen(name, spec) for name, spec in list(self._specs.items())}

    def quiet_since(self, moment: float) -> bool:
        """Nobody watches here."""
        return False

    def delete(self, name: str) -> None:
        """Forget it."""
        with self._lock:
            self._reached()
            self._passed("before delete")
            self.deleted.append(name)
            self._specs.pop(name, None)

    def vanish(self, name: str) -> None:
        """Somebody else deletes it."""
        self._specs.pop(name, None)

    def put(self, spec: AttemptSpec) -> None:
        """Something that runs here although nobody launched it through us."""
        self._specs[spec.name], self._left[spec.name] = spec, [AttemptPhase.RUNNING]

    def goes_on(self, name: str, play: Play) -> None:
        """What it shows from now on."""
        self._left[name] = list(play)

    @property
    def running(self) -> set[str]:
        """Names of what is there."""
        return set(self._specs)

    def _seen(self, name: str, spec: AttemptSpec) -> Observation:
        left = self._left[name]
        while callable(left[0]):
            if isinstance(ended := left.pop(0)(), AttemptOutcome):  # type: ignore[operator]  # the callable one
                left[:] = [ended]
        now = left[0]
        if len(left) > 1:
            left.pop(0)
        if isinstance(now, AttemptOutcome):
            return Observation(name, AttemptPhase.ENDED, now.reason, now, spec.batch_id, spec.job_index, spec)
        phase, detail = now if isinstance(now, tuple) else (now, "")
        assert isinstance(phase, AttemptPhase)
        return Observation(name, phase, detail, None, spec.batch_id, spec.job_index, spec)


class Pod:
    """What an attempt's pod does to ledger and bucket."""

    def __init__(self, spec: AttemptSpec, ledger: Ledger, artifacts: Artifacts, uid: str | None = None) -> None:
        self.spec, self.uid = spec, uid or f"uid-{spec.name}"
        self.objects = BatchObjects(spec.batch_id)
        self.outcomes: list[ImageOutcome] = []
        self._ledger, self._artifacts = ledger, artifacts

    @property
    def tasks(self) -> list[ImageTask]:
        return images_of(parsed_shard(self._artifacts.get(self.spec.shard_key) or b""))

    def left(self) -> list[ImageTask]:
        """Images that have no outcome yet: what a pod renders."""
        return [
            task
            for task in self.tasks
            if not committed_result(self._artifacts, self.objects, task)
            and not committed_failure(self._artifacts, self.objects, task)
        ]

    def register(self) -> str | None:
        return self._ledger.jobs.register_pod(
            self.spec.job_ref, attempt=self.spec.number, token=self.spec.token, uid=self.uid
        )

    def commit(self, tasks: Sequence[ImageTask], *, tell: bool = True) -> None:
        """Put these images into the bucket, and tell the ledger unless the pod dies before that."""
        for task in tasks:
            result = image_result(task, self.spec.batch_id, attempt=self.spec.number)
            self.outcomes.append(commit_image(self._artifacts, self.objects, result, file_of(result, task.index)))
        if tell:
            self._tell(tasks, ImageState.SUCCEEDED)

    def fail(
        self, tasks: Sequence[ImageTask], code: FailureCode = FailureCode.BLACK, *, retryable: bool = True
    ) -> None:
        """Give up on these images."""
        for task in tasks:
            failure: ImageFailure = failure_of(task, code, "of one colour", retryable=retryable)
            commit_failure(self._artifacts, self.objects, failure)
            self.outcomes.append(failure)
        self._tell(tasks, ImageState.FAILED)

    def claim_success(self, tasks: Sequence[ImageTask]) -> None:
        """Say of images that they are there, although they are not."""
        self.outcomes += [self._said(task) for task in tasks]

    def _said(self, task: ImageTask) -> ImageResult:
        return image_result(task, self.spec.batch_id).model_copy(update={"sha256": "0" * 64, "size_bytes": 1})

    def start(self, tasks: Sequence[ImageTask]) -> None:
        self._tell(tasks, ImageState.RUNNING)

    def write_fragment(self) -> None:
        key = self.objects.fragment(self.spec.job_index)
        self._artifacts.put(key, outcome_lines(self.outcomes), content_type="application/x-ndjson")

    def _tell(self, tasks: Sequence[ImageTask], state: ImageState) -> None:
        indices = [task.index for task in tasks]
        self._ledger.images.move_by_pod(
            self.spec.batch_id,
            self.spec.job_ref,
            indices,
            state,
            pod=self.uid,
            attempt=self.spec.number,
            token=self.spec.token,
        )
