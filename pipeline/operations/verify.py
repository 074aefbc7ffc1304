"""Verify a batch: compare what Redis says of it with what the bucket has, image by image. Nothing is changed.

It works whatever either knows: Redis may have lost the batch, or been restored from before its end; objects may be gone
or damaged. A list is only a shortcut: what it does not show is asked for by its key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch_manifest, fetch_marker
from pipeline.errors import RecordTooNew, RecordUnreadable, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.names import checked_batch_id
from pipeline.operations.discrepancies import Discrepancies, DiscrepancyKind, Verification
from pipeline.operations.verify_job import JobCheck
from pipeline.operations.verify_results import has_input, wrong_results
from pipeline.process.parallel import in_order
from pipeline.records.batch import BatchManifest, BatchRecord
from pipeline.records.coverage import Coverage
from pipeline.records.end_marker import EndMarker, Vouched
from pipeline.records.object_keys import MARKERS, BatchObjects
from pipeline.states import BatchState, ImageState, is_final

AT_A_TIME = 8  # jobs that are looked at
_TRIES = 3

_IMAGE_STATES = (ImageState.SUCCEEDED, ImageState.FAILED, ImageState.CANCELLED)


def verify(
    ledger: Ledger,
    artifacts: Artifacts,
    batch_id: str,
    *,
    deep: bool = False,
    sample: int = 0,
    on_discrepancy: Callable[[DiscrepancyKind, str], None] | None = None,
) -> Verification:
    """Compare a batch in Redis and in the bucket.

    Args:
        ledger, artifacts: both are only read.
        batch_id: of a batch that at least one of them knows.
        deep: read the file of every image, and compare it with its digest and its size in pixels.
        sample: read about so many of them.
        on_discrepancy: called with each single one, of which the result has the first of each kind.

    A batch that moves on meanwhile is looked at again, a few times. Raises UnknownBatch if neither knows it,
    RequestError if this is no id, ServiceError.
    """
    objects = BatchObjects(checked_batch_id(batch_id))
    for last in (*(False,) * (_TRIES - 1), True):
        look = _Look(ledger, artifacts, objects, deep=deep, sample=sample)
        found = look.verification()
        if last or found.ok or not look.has_moved():
            break
    if on_discrepancy is not None:
        for kind, what in look.each:
            on_discrepancy(kind, what)
    return found


@dataclass
class _Look:
    """One look at a batch."""

    ledger: Ledger
    artifacts: Artifacts
    objects: BatchObjects
    deep: bool
    sample: int
    record: BatchRecord | None = None
    marker: EndMarker | None = None
    damaged: bool = False  # its record, or its counters
    moving: bool = False
    files: int = 0
    found: Discrepancies = field(default_factory=Discrepancies)
    each: list[tuple[DiscrepancyKind, str]] = field(default_factory=list)
    proved: Counter[ImageState] = field(default_factory=Counter)

    def add(self, kind: DiscrepancyKind, what: str) -> None:
        self.found.add(kind, what)
        self.each.append((kind, what))

    def verification(self) -> Verification:
        """Look. Raises UnknownBatch, ServiceError."""
        images = 0
        try:
            self.record = self._record_or_damage()
            manifest = self._manifest()
            if manifest is not None:
                images = manifest.images
                self._markers()
                if self._is_comparable(manifest):
                    self._compare(manifest)
        except RecordUnreadable as error:  # it says everything that can be said
            self.add(DiscrepancyKind.UNREADABLE, error.what)
        return Verification(
            id=self.objects.batch_id,
            redis=self.record.state if self.record else None,
            bucket=self.marker.state if self.marker else None,
            images=images,
            succeeded=self.proved[ImageState.SUCCEEDED],
            failed=self.proved[ImageState.FAILED],
            cancelled=self.proved[ImageState.CANCELLED],
            files=self.files,
            moving=self.moving,
            discrepancies=self.found.all(),
        )

    def has_moved(self) -> bool:
        """Whether the batch is not what it was when this look began."""
        if self.damaged:
            return False
        now = self._record()
        return (now and now.revision) != (self.record and self.record.revision)

    def _record_or_damage(self) -> BatchRecord | None:
        try:
            record = self._record()
            if record is not None:
                self.ledger.batches.check(record.id)
        except RecordTooNew:
            raise
        except RecordUnreadable as error:
            self.damaged = True
            self.add(DiscrepancyKind.RECORD_DAMAGED, error.what)
            return None
        return record

    def _record(self) -> BatchRecord | None:
        try:
            return self.ledger.batches.get(self.objects.batch_id)
        except UnknownBatch:
            return None

    def _manifest(self) -> BatchManifest | None:
        """The batch as it was accepted, from Redis if the bucket has lost only that; None if there is no batch."""
        try:
            if (manifest := fetch_manifest(self.artifacts, self.objects.batch_id)) is not None:
                return manifest
        except RecordTooNew:
            raise
        except RecordUnreadable:
            if self.record is None or self.record.manifest.purge is not None:
                raise
            self.add(DiscrepancyKind.MANIFEST_GONE, self.objects.manifest)
            return self.record.manifest
        if self.record is None and not self.damaged:
            raise UnknownBatch(self.objects.batch_id)
        if self.record is not None and self.record.manifest.purge is not None:
            self.moving = True
            return None
        if next(self.artifacts.list(self.objects.root), None) is None:
            self.add(DiscrepancyKind.GONE_FROM_BUCKET, self.objects.root)
            return None
        if self.record is None:
            raise RecordUnreadable(self.objects.manifest, "nothing", BatchManifest.__name__)
        self.add(DiscrepancyKind.MANIFEST_GONE, self.objects.manifest)
        return self.record.manifest

    def _markers(self) -> None:
        for state in MARKERS:
            key = self.objects.marker(state)
            if (marker := fetch_marker(self.artifacts, self.objects, state)) is not None:
                if self.marker is not None:
                    self.add(DiscrepancyKind.MARKER_DIFFERS, key)
                self.marker = marker
                if self.marker.damaged:
                    self.add(DiscrepancyKind.MARKER_DIFFERS, key)

    def _is_comparable(self, manifest: BatchManifest) -> bool:
        """Whether there are jobs to look at; what is wrong with the batch as a whole is added."""
        record, batch_id = self.record, self.objects.batch_id
        if manifest.purge is not None:
            self.moving = record is not None and record.manifest.purge is not None
            left = record is not None or any(self.artifacts.head(key) for key in self._first_to_go(manifest))
            if left and not self.moving:
                self.add(DiscrepancyKind.PURGE_UNFINISHED, batch_id)
            return False
        if record is None:
            if not self.damaged:
                self.add(DiscrepancyKind.UNKNOWN_TO_REDIS, batch_id)
            return True
        if record.manifest.staged != manifest.staged:
            self.add(DiscrepancyKind.ANOTHER_BATCH, batch_id)
            return False
        if record.manifest.purge is not None:
            self.moving = True
            return False
        return True

    def _first_to_go(self, manifest: BatchManifest) -> list[str]:
        return [self.objects.plan, self.objects.input(manifest.staged)]

    def _compare(self, manifest: BatchManifest) -> None:
        record, marker = self.record, self.marker
        final = record is not None and is_final(record.state)
        if record is not None and not final and not self._is_cut(record):
            return
        if marker is not None and record is not None and record.state is not marker.state:
            if record.reopen is not None or record.state in (BatchState.FINALIZING, BatchState.CANCELLING):
                self.moving = True
            else:
                self.add(
                    DiscrepancyKind.STATE_DIFFERS, f"{record.state.value} in Redis, {marker.state.value} by its marker"
                )
        elif marker is None and final and record is not None:
            self.add(DiscrepancyKind.MARKER_GONE, self.objects.marker(record.state))
        if not has_input(self.artifacts, self.objects, manifest, deep=self.deep):
            self.add(DiscrepancyKind.INPUT_GONE, self.objects.input(manifest.staged))
        ended = final or marker is not None
        if (marker.state if marker else record and record.state) is BatchState.FAILED:
            self.proved.update(_vouched(marker))  # nobody can know all of its images
        else:
            known = record if record is not None and record.jobs is not None else None
            coverage = self._look_at_jobs(manifest, known, ended=ended)
            if ended:
                self._check_proof(manifest, coverage)
        if marker is not None and not self.moving:
            if marker.vouched is not None:
                self._check_marker(marker, marker.vouched, manifest)
            for key in wrong_results(self.artifacts, self.objects, marker, self.proved):
                self.add(DiscrepancyKind.RESULTS_DIFFER, key)

    def _is_cut(self, record: BatchRecord) -> bool:
        """Whether a batch that has not ended has its jobs in Redis."""
        counts = self.ledger.batches.counts(record.id)
        if record.jobs is not None:
            self.moving = True
            if sum(counts.jobs.values()) != record.jobs or sum(counts.images.values()) != record.manifest.images:
                self.add(DiscrepancyKind.JOBS_DIFFER, f"{sum(counts.jobs.values())} jobs of {record.jobs}")
            return True
        self.moving = True
        outcomes = any(next(self.artifacts.list(folder), None) for folder in self.objects.outcome_folders)
        if not record.recovered and (outcomes or self.marker is not None):
            self.add(DiscrepancyKind.JOBS_DIFFER, f"{record.id} has no jobs in Redis, and outcomes in the bucket")
        return False

    def _look_at_jobs(self, manifest: BatchManifest, record: BatchRecord | None, *, ended: bool) -> Coverage:
        every = 1 if self.deep else max(1, manifest.images // self.sample) if self.sample else 0
        check = JobCheck(
            self.ledger, self.artifacts, self.objects, record, ended, lambda i: every > 0 and i % every == 0
        )
        coverage = Coverage(manifest.images)
        for job, seen in enumerate(in_order(check.look, range(self._jobs(manifest, record)), at_a_time=AT_A_TIME)):
            self.files += seen.files
            for kind, what in seen.found:
                self.add(kind, what)
            for index, state in seen.images.items():
                if coverage.add(index):
                    self.proved[state] += 1
                else:
                    self.add(DiscrepancyKind.FRAGMENT_DIFFERS, self.objects.fragment(job))
        return coverage

    def _jobs(self, manifest: BatchManifest, record: BatchRecord | None) -> int:
        """How many jobs there are, or may be: none has less than one image."""
        if record is not None and record.jobs is not None:
            return min(record.jobs, manifest.images)
        if self.marker is not None and self.marker.vouched is not None:
            return min(self.marker.vouched.jobs, manifest.images)
        keys = (key for folder in (self.objects.shards, self.objects.fragments) for key in self.artifacts.list(folder))
        jobs = (self.objects.job_of(key, manifest.images) for key in keys)
        return max((job + 1 for job in jobs if job is not None), default=0)

    def _check_proof(self, manifest: BatchManifest, coverage: Coverage) -> None:
        counts = self.found.counts
        known = (DiscrepancyKind.OUTCOME_MISSING, DiscrepancyKind.IMAGE_GONE, DiscrepancyKind.IMAGE_DAMAGED)
        if (missing := coverage.left - sum(counts[kind] for kind in known)) > 0:
            self.add(
                DiscrepancyKind.OUTCOME_MISSING, f"{missing} images of {manifest.id} that no shard and no fragment has"
            )
        if coverage.left == 0 and self.record is not None and is_final(self.record.state):
            images = self.ledger.batches.counts(manifest.id).images
            for state in _IMAGE_STATES:
                if images[state] != self.proved[state]:
                    what = f"{images[state]} images {state.value} in Redis, {self.proved[state]} in the bucket"
                    self.add(DiscrepancyKind.COUNTS_DIFFER, what)

    def _check_marker(self, marker: EndMarker, vouched: Vouched, manifest: BatchManifest) -> None:
        key = self.objects.marker(marker.state)
        proved = tuple(self.proved[state] for state in _IMAGE_STATES)
        differs = (vouched.succeeded, vouched.failed, vouched.cancelled) != proved
        if (vouched.images, vouched.input_sha256) != (manifest.images, manifest.input_sha256) or (
            differs and not self.found.counts
        ):
            self.add(DiscrepancyKind.MARKER_DIFFERS, key)


def _vouched(marker: EndMarker | None) -> dict[ImageState, int]:
    if marker is None or marker.vouched is None:
        return {}
    return {state: getattr(marker.vouched, state.value) for state in _IMAGE_STATES}
