"""What a verification can find wrong with a batch, what that means for its pictures, and what a repair does."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipeline.states import BatchState

_EXAMPLES = 5


class DiscrepancyKind(StrEnum):
    """What is wrong. The values are part of the product: scripts read them."""

    UNREADABLE = "unreadable"
    RECORD_DAMAGED = "record_damaged"
    UNKNOWN_TO_REDIS = "unknown_to_redis"
    GONE_FROM_BUCKET = "gone_from_bucket"
    MANIFEST_GONE = "manifest_gone"
    ANOTHER_BATCH = "another_batch"
    PURGE_UNFINISHED = "purge_unfinished"
    STATE_DIFFERS = "state_differs"
    JOBS_DIFFER = "jobs_differ"
    IMAGE_STATES_DIFFER = "image_states_differ"
    COUNTS_DIFFER = "counts_differ"
    MARKER_GONE = "marker_gone"
    MARKER_DIFFERS = "marker_differs"
    RESULTS_DIFFER = "results_differ"
    FRAGMENT_DIFFERS = "fragment_differs"
    SHARD_GONE = "shard_gone"
    INPUT_GONE = "input_gone"
    OUTCOME_MISSING = "outcome_missing"
    IMAGE_GONE = "image_gone"
    IMAGE_DAMAGED = "image_damaged"
    SIDECAR_DIFFERS = "sidecar_differs"


class Harm(StrEnum):
    """What it means for the pictures of a batch."""

    NONE = "pictures are safe"
    PICTURES = "pictures are missing"
    UNKNOWN = "not known"


@dataclass(frozen=True)
class Meaning:
    """A kind of discrepancy in words."""

    says: str
    harm: Harm
    repair: str


_K, _NONE, _PICTURES = DiscrepancyKind, Harm.NONE, Harm.PICTURES
_ANEW = "the batch is put into Redis anew, as the bucket has it"
_AGAIN = "rendered again; with E_LOST if its row is gone too"

MEANINGS: Mapping[DiscrepancyKind, Meaning] = {
    _K.UNREADABLE: Meaning("a record that this version cannot read", Harm.UNKNOWN, "nothing: it is left as it is"),
    _K.RECORD_DAMAGED: Meaning("its record in Redis is damaged", _NONE, _ANEW),
    _K.UNKNOWN_TO_REDIS: Meaning("accepted in the bucket, unknown to Redis", _NONE, _ANEW),
    _K.GONE_FROM_BUCKET: Meaning(
        "nothing of it is in the bucket (was it purged?)", _PICTURES, "its record in Redis is removed"
    ),
    _K.MANIFEST_GONE: Meaning("batch.json is gone or damaged", _NONE, "written again from Redis"),
    _K.ANOTHER_BATCH: Meaning("the bucket has another batch of this id", _NONE, _ANEW),
    _K.PURGE_UNFINISHED: Meaning("purged in the bucket, known to Redis, or not all removed", _NONE, "it is finished"),
    _K.STATE_DIFFERS: Meaning("Redis and the marker in the bucket differ about its end", _NONE, _ANEW),
    _K.JOBS_DIFFER: Meaning("jobs that Redis does not have", _NONE, _ANEW),
    _K.IMAGE_STATES_DIFFER: Meaning("images whose state in Redis is not what the bucket has", _NONE, _ANEW),
    _K.COUNTS_DIFFER: Meaning("Redis' counters are not the sums of what the bucket has", _NONE, _ANEW),
    _K.MARKER_GONE: Meaning("ended in Redis, without a marker in the bucket", _NONE, "finalized again"),
    _K.MARKER_DIFFERS: Meaning("the marker vouches for something else", _NONE, "finalized again"),
    _K.RESULTS_DIFFER: Meaning("gone, or not what the marker vouches for", _NONE, "finalized again"),
    _K.FRAGMENT_DIFFERS: Meaning("gone, damaged, or of other images", _NONE, "made again from the images' objects"),
    _K.SHARD_GONE: Meaning("gone or damaged", _NONE, "cut again from input.jsonl; without it a running batch fails"),
    _K.INPUT_GONE: Meaning("the accepted rows are gone or are others", _NONE, "nothing: they cannot be had again"),
    _K.OUTCOME_MISSING: Meaning("images without picture or error", _PICTURES, _AGAIN),
    _K.IMAGE_GONE: Meaning("images whose file is gone", _PICTURES, _AGAIN),
    _K.IMAGE_DAMAGED: Meaning("images whose file is not what was committed", _PICTURES, f"removed and {_AGAIN}"),
    _K.SIDECAR_DIFFERS: Meaning("gone, or not that of the image", _NONE, "made again from the image's own record"),
}


@dataclass(frozen=True)
class Discrepancy:
    """Something that is wrong with a batch: how often it was found, and where first."""

    kind: DiscrepancyKind
    count: int
    examples: tuple[str, ...]

    @property
    def meaning(self) -> Meaning:
        """It in words."""
        return MEANINGS[self.kind]


@dataclass(frozen=True)
class Verification:
    """What a batch is by Redis, and what by the bucket.

    Attributes:
        redis: its state by Redis; None if Redis does not know it.
        bucket: how it ended by its marker; None if it has not.
        images: as they were accepted.
        succeeded, failed, cancelled: those of them that the bucket proves.
        files: how many images' files were read and compared.
        moving: it is being worked on, so what is not there yet may still come.
        discrepancies: what is wrong; nothing else is.
    """

    id: str
    redis: BatchState | None
    bucket: BatchState | None
    images: int
    succeeded: int
    failed: int
    cancelled: int
    files: int
    moving: bool
    discrepancies: tuple[Discrepancy, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.discrepancies

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for scripts."""
        found = [
            {
                "kind": one.kind.value,
                "count": one.count,
                "examples": list(one.examples),
                "harm": one.meaning.harm.name.lower(),
                "repair": one.meaning.repair,
            }
            for one in self.discrepancies
        ]
        names = ("images", "succeeded", "failed", "cancelled", "files", "moving", "ok")
        states = {"redis": self.redis and self.redis.value, "bucket": self.bucket and self.bucket.value}
        return {"batch": self.id, **states, **{name: getattr(self, name) for name in names}, "discrepancies": found}


@dataclass
class Discrepancies:
    """Collects what is found, in memory that does not grow with it."""

    counts: Counter[DiscrepancyKind] = field(default_factory=Counter)
    _examples: defaultdict[DiscrepancyKind, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: DiscrepancyKind, what: str) -> None:
        """Something is wrong with what is named."""
        self.counts[kind] += 1
        if len(self._examples[kind]) < _EXAMPLES:
            self._examples[kind].append(what)

    def all(self) -> tuple[Discrepancy, ...]:
        """Everything that was found, by kind."""
        return tuple(
            Discrepancy(kind, self.counts[kind], tuple(self._examples[kind]))
            for kind in DiscrepancyKind
            if self.counts[kind]
        )
