"""Compare one job of a batch: its shard, its fragment, the objects of its images, and what Redis says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.bucket.artifacts import Artifacts, sha256
from pipeline.bucket.fetch import fetch, fetch_lines, fetch_shard
from pipeline.bucket.sizes import sizes_there
from pipeline.errors import RecordTooNew, RecordUnreadable
from pipeline.ledger import Ledger
from pipeline.names import job_ref
from pipeline.operations.discrepancies import DiscrepancyKind
from pipeline.records.batch import BatchRecord, JobRecord
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageOutcome, ImageResult, parsed_outcomes
from pipeline.records.shards import ImageTask
from pipeline.states import ImageState, is_final


@dataclass
class JobSeen:
    """What is proved of a job's images, by their index, and what is wrong with it."""

    images: dict[int, ImageState] = field(default_factory=dict)
    found: list[tuple[DiscrepancyKind, str]] = field(default_factory=list)
    files: int = 0

    def add(self, kind: DiscrepancyKind, what: str) -> None:
        """Something is wrong with what is named; once is enough."""
        if (kind, what) not in self.found[-1:]:
            self.found.append((kind, what))


@dataclass(frozen=True)
class JobCheck:
    """Looks at the jobs of one batch, one after the other; may be shared between threads.

    Attributes:
        record: the batch in Redis; None if Redis does not know it, or has not cut it.
        ended: the batch has ended, so every image must have an outcome.
        reads_file: whether the file of the image of this index is read and compared.
    """

    ledger: Ledger
    artifacts: Artifacts
    objects: BatchObjects
    record: BatchRecord | None
    ended: bool
    reads_file: Callable[[int], bool]

    def look(self, index: int) -> JobSeen:
        """What there is of a job. Redis is asked first: what it knows must be in the bucket. Raises ServiceError."""
        seen = JobSeen()
        tasks = self._tasks(index, seen)
        job = self._job(index, seen)
        states: dict[int, ImageState] = {}
        if self.record is not None and tasks is not None:
            indices = [task.index for task in tasks]
            try:
                states = dict(zip(indices, self.ledger.images.states(self.objects.batch_id, indices), strict=True))
            except RecordUnreadable as error:
                seen.add(DiscrepancyKind.IMAGE_STATES_DIFFER, error.what)
        if self.ended or (job is not None and is_final(job.state)):
            outcomes = self._reported(index, tasks, seen)
            self._compare_objects(outcomes, seen)
            self._look_up([task for task in tasks or () if task.index not in outcomes], index, seen)
            for image, state in seen.images.items():
                if states and states.get(image) is not state:
                    seen.add(DiscrepancyKind.IMAGE_STATES_DIFFER, f"image {image} of {self.objects.batch_id}")
        elif tasks is not None:
            self._look_for_known(tasks, states, seen)
        return seen

    def _job(self, index: int, seen: JobSeen) -> JobRecord | None:
        if self.record is None:
            return None
        ref = job_ref(self.objects.batch_id, index)
        try:
            job = self.ledger.jobs.get(ref)
        except RecordTooNew as error:
            seen.add(DiscrepancyKind.UNREADABLE, error.what)
            return None
        except RecordUnreadable:
            job = None  # as good as gone
        if job is None:
            seen.add(DiscrepancyKind.JOBS_DIFFER, ref)
        return job

    def _tasks(self, index: int, seen: JobSeen) -> list[ImageTask] | None:
        key = self.objects.shard(index)
        try:
            if (tasks := fetch_shard(self.artifacts, key)) is not None:
                return tasks
        except RecordTooNew:
            seen.add(DiscrepancyKind.UNREADABLE, key)
            return None
        except RecordUnreadable:
            pass  # as good as gone: the rows have what it had
        seen.add(DiscrepancyKind.SHARD_GONE, key)
        return None

    def _reported(self, index: int, tasks: Sequence[ImageTask] | None, seen: JobSeen) -> dict[int, ImageOutcome]:
        """What the fragment says of the job's own images; the first outcome of each."""
        key = self.objects.fragment(index)
        lines = fetch_lines(self.artifacts, key)
        own = {task.index for task in tasks} if tasks is not None else None
        outcomes: dict[int, ImageOutcome] = {}
        for line in lines or ():  # one that is gone is found by what it lacks
            try:
                [outcome] = parsed_outcomes([line], key, self.objects)
            except RecordTooNew:
                seen.add(DiscrepancyKind.UNREADABLE, key)
            except (RecordUnreadable, ValueError):
                seen.add(DiscrepancyKind.FRAGMENT_DIFFERS, key)
            else:
                if outcome.index in outcomes or (own is not None and outcome.index not in own):
                    seen.add(DiscrepancyKind.FRAGMENT_DIFFERS, key)
                else:
                    outcomes[outcome.index] = outcome
        if lines is None:
            seen.add(DiscrepancyKind.FRAGMENT_DIFFERS, key)
        return outcomes

    def _compare_objects(self, outcomes: dict[int, ImageOutcome], seen: JobSeen) -> None:
        results = {index: one for index, one in outcomes.items() if isinstance(one, ImageResult)}
        sizes = sizes_there(self.artifacts, {index: one.key for index, one in results.items()})
        for index, outcome in outcomes.items():
            if not isinstance(outcome, ImageResult):
                cancelled = outcome.code is FailureCode.CANCELLED
                seen.images[index] = ImageState.CANCELLED if cancelled else ImageState.FAILED
            elif outcome.key not in sizes:
                seen.add(DiscrepancyKind.IMAGE_GONE, outcome.key)
            elif sizes[outcome.key] != outcome.size_bytes or not self._is_as_committed(outcome, seen):
                seen.add(DiscrepancyKind.IMAGE_DAMAGED, outcome.key)
            else:
                seen.images[index] = ImageState.SUCCEEDED

    def _is_as_committed(self, result: ImageResult, seen: JobSeen) -> bool:
        """Whether the file has its digest and decodes to its size, if files are read; its sidecar is compared too."""
        if not self.reads_file(result.index):
            return True
        seen.files += 1
        sidecar = self.objects.sidecar(result.row, result.number)
        try:
            known = fetch(ImageResult, self.artifacts, sidecar)
        except RecordUnreadable:
            known = None
        if known is None or known.sha256 != result.sha256:
            seen.add(DiscrepancyKind.SIDECAR_DIFFERS, sidecar)
        from pipeline.bucket.imagefile import is_whole  # it decodes pictures, which most commands need not

        body = self.artifacts.get(result.key)
        return body is not None and sha256(body) == result.sha256 and is_whole(body, result.width, result.height)

    def _look_up(self, tasks: Iterable[ImageTask], index: int, seen: JobSeen) -> None:
        """Images of a job that is over, of which its fragment says nothing."""
        for task in tasks:
            if self.artifacts.head(task.key(self.objects)) is not None:
                seen.images[task.index] = ImageState.SUCCEEDED
            elif self.artifacts.head(self.objects.failure(task.row.row, task.number)) is not None:
                seen.images[task.index] = ImageState.FAILED
            else:
                seen.add(DiscrepancyKind.OUTCOME_MISSING, task.key(self.objects))
            seen.add(DiscrepancyKind.FRAGMENT_DIFFERS, self.objects.fragment(index))

    def _look_for_known(self, tasks: Iterable[ImageTask], states: dict[int, ImageState], seen: JobSeen) -> None:
        """Images of a job under way that have an outcome by Redis."""
        there = sizes_there(
            self.artifacts,
            {t.index: t.key(self.objects) for t in tasks if states.get(t.index) is ImageState.SUCCEEDED},
        )
        for task in tasks:
            state = states.get(task.index)
            if state is ImageState.SUCCEEDED and task.key(self.objects) not in there:
                seen.add(DiscrepancyKind.IMAGE_GONE, task.key(self.objects))
            elif state is not None and is_final(state):
                seen.images[task.index] = state
