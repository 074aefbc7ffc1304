"""The records of batches and jobs, as Redis and S3 hold them, and how they change.

A record changes by: read, `advance` (or `changed`), write if its revision still stands. Readers keep fields that they
do not know, so that workers of two neighbouring versions can work on one batch.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from pipeline.deployment.control_cost import MEGA
from pipeline.deployment.cost import SDXL_NATIVE_PX, tera_operations
from pipeline.deployment.layouts import Layout
from pipeline.deployment.speed import assumed_rate
from pipeline.errors import IllegalMove
from pipeline.names import MAX_IMAGES_OF_BATCH, Id, job_ref
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.records.attempt import AttemptSpec, Code
from pipeline.records.labels import Labels
from pipeline.records.object_keys import ObjectKey, check_rows_key
from pipeline.records.webhooks import Webhook
from pipeline.schema import Versioned
from pipeline.states import BATCH_MOVES, JOB_MOVES, BatchState, JobState
from pipeline.stored import AnyJson, Moment, Record

SCHEMA_VERSION = 1

# Part of keys and of names in a cluster.
Token = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,32}$")]

PRIORITIES = range(10)  # 0 is served first


class _Record(Versioned):
    # extra="allow" keeps what a newer version wrote through a read and a write of an older one
    model_config = ConfigDict(extra="allow")

    schema_version: int = SCHEMA_VERSION


class Purge(StrEnum):
    """What of a batch is to be removed."""

    EVERYTHING = "everything"
    KEEP_IMAGES = "keep_images"  # images, thumbnails, results and gallery stay; it is no batch any more


class Repair(StrEnum):
    """What a batch in the ledger is compared with, before it is brought in line with the bucket."""

    OBJECTS = "objects"  # which there are, and how large
    FILES = "files"  # what is in every image's file, too


class Origin(_Record):
    """The firing of a schedule that submitted a batch."""

    schedule: str
    fire_at: Moment
    rows_key: ObjectKey | None = Field(None, description="Where the digests of all rows of the prompt set lie.")

    @field_validator("rows_key")
    @classmethod
    def _check_rows_key(cls, key: str | None, others: ValidationInfo) -> str | None:
        if key is not None and "schedule" in others.data:
            check_rows_key(key, others.data["schedule"])
        return key


class BatchRequest(_Record):
    """The request to OpenAI's batch endpoint that a batch was submitted by, which is read back from it."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] = Field(default_factory=dict)


def _empty(value: object) -> bool:
    return not value


class BatchManifest(_Record):
    """`batch.json`: the batch as it was accepted. It is written once, and changes only to say that it is purged."""

    id: Id
    incarnation: Token = Field(description="Random; stands for this record of the batch in names that outlive it.")
    tenant: Id
    priority: int = Field(ge=0, le=9)
    created_at: Moment
    rows: int = Field(ge=0, le=MAX_IMAGES_OF_BATCH)
    images: int = Field(ge=0, le=MAX_IMAGES_OF_BATCH)
    invalid_rows: int = Field(0, ge=0, description="Rows left out under --skip-invalid; see its invalid.jsonl.")
    seed: int
    staged: Token = Field(description="Token of the submission that was accepted: where its input.jsonl lies.")
    input_sha256: str = Field(description="Of input.jsonl: the same id with other rows is another batch.")
    defaults: dict[str, AnyJson] = Field(
        description="The defaults for all rows, as submitted; the staged rows have them already."
    )
    labels: Labels = Field(default_factory=dict, exclude_if=_empty, description="The user's, to find it by.")
    overrides: dict[str, AnyJson] = Field(
        default_factory=dict, exclude_if=_empty, description="What replaced the rows' own values, likewise."
    )
    unreached: dict[str, int] = Field(
        default_factory=dict,
        exclude_if=_empty,
        description="Rows where a default has no effect, by its name.",
    )
    webhooks: tuple[Webhook, ...] = Field((), exclude_if=_empty, description="Who is sent what becomes of it.")
    image: str | None = Field(
        None,
        description="Container image of its pods, as announced; None: the deployment's when a job starts.",
    )
    client_version: str
    origin: Origin | None = Field(None, description="The schedule that submitted it; None for a user.")
    request: BatchRequest | None = Field(
        None, exclude_if=_empty, description="As it came to OpenAI's batch endpoint, if it did."
    )
    purge: Purge | None = Field(None, description="The batch is being removed, or all but its images was.")


class Pace(Record):
    """How long the images of a batch are expected to take. Fixed before the batch is cut: cutting again gives the same.

    Attributes:
        job_seconds: of rendering that one job is cut to.
        layout: of its pods, as far as known then.
        faster: by model, how many times as fast as assumed (`pipeline.deployment.speed`).
        native_px: by model.
    """

    job_seconds: float
    layout: Layout
    faster: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    native_px: dict[str, int]

    def seconds(self, row: ResolvedRow) -> float:
        """Of one image of the row, for a whole pod."""
        native_px = self.native_px.get(row.model, SDXL_NATIVE_PX)
        rate = assumed_rate(self.layout, row.width * row.height / MEGA) * self.faster.get(row.model, 1.0)
        return tera_operations(row, native_px) / rate / self.layout.data


class Plan(_Record):
    """`plan.json`: how a batch is cut into jobs. It is written once, before the first shard, and never changes."""

    images_per_job: int
    pace: Pace | None = None


class Wait(_Record):
    """What a batch or a job waits for that is none of its faults: an outage, or what cannot be read yet."""

    reason: str
    since: Moment
    times: int = Field(1, description="How often it was tried meanwhile.")


class BatchRecord(_Record):
    """A batch in the ledger."""

    manifest: BatchManifest
    state: BatchState = BatchState.VALIDATING
    revision: int = 1
    updated_at: Moment
    recovered: bool = Field(False, description="Restored from the bucket; some of its images may be there.")
    images_per_job: int | None = Field(None, description="How it is cut; fixed before the first shard is written.")
    pace: Pace | None = Field(None, description="Fixed with images_per_job; None cuts by the number of images alone.")
    jobs: int | None = Field(None, description="How many jobs it was cut into; None until it is.")
    reason: str | None = Field(None, description="Why it failed.")
    repair: Repair | None = Field(
        None, description="To be brought in line with the bucket by the controller, after `tessera verify --repair`."
    )
    restarts: int = Field(0, description="How often it was put into the ledger anew, from what the bucket has.")
    wait: Wait | None = Field(None, description="While its next step cannot be taken for no fault of its own.")
    round: int = Field(0, description="How often it was opened again after its end, by `tessera retry`.")
    image: str | None = Field(
        None,
        exclude_if=lambda image: image is None,
        description="Container image of its pods since it was opened again, where the manifest's had made no picture.",
    )
    priority: int | None = Field(
        None,
        ge=0,
        le=9,
        exclude_if=lambda priority: priority is None,
        description="Since it was changed; None: the manifest's.",
    )
    reopen: tuple[str, ...] | None = Field(
        None, description="While its jobs are being opened again: codes of the failures to retry, none meaning all."
    )

    @property
    def id(self) -> str:
        """The batch's id."""
        return self.manifest.id

    @property
    def priority_now(self) -> int:
        """0 is served first, 9 last."""
        return self.manifest.priority if self.priority is None else self.priority

    @property
    def pod_image(self) -> str | None:
        """Container image of its pods; None: the deployment's when a job starts."""
        return self.image or self.manifest.image


class AttemptEnd(_Record):
    """How an earlier attempt ended, for history."""

    number: int
    code: Code
    reason: str
    ended_at: Moment
    node: str | None = None
    rendering: tuple[int, ...] = Field((), description="Images that it may have died of, by their index.")


class JobRecord(_Record):
    """A job in the ledger: a shard of one batch, at most one live attempt."""

    batch_id: str
    incarnation: str
    index: int = Field(ge=0)
    tenant: str
    priority: int
    state: JobState = JobState.QUEUED
    revision: int = 1
    created_at: Moment
    updated_at: Moment
    images: int = Field(ge=1)
    attempt: AttemptSpec | None = Field(None, description="The current or last attempt, complete.")
    layout_reason: str = Field("", description="Why that attempt has the layout that it has.")
    confirmed: bool = Field(False, description="The attempt was seen to exist; gone then means ended, not unmade.")
    detail: str = Field("", description="What the attempt does or waits for while it lasts, as its cluster says it.")
    spent: int = Field(0, description="Attempts that failed since the last that brought an image.")
    disrupted: int = Field(0, description="Attempts that the cluster took away since then.")
    isolated: int = Field(0, description="Images taken out since then because they killed their pods.")
    done: int = Field(0, description="Images with an outcome when an attempt last ended.")
    ended: tuple[AttemptEnd, ...] = ()
    indices: str = Field("", description="Its images, as in 0-99,120, once an attempt is on record; '' is not known.")
    wait: Wait | None = Field(None, description="While it cannot go on for no fault of its own.")
    last_number: int = Field(0, description="Number of its last attempt, where the record of that is lost.")
    fenced_at: Moment | None = Field(None, description="When the claim was taken from a pod that may still run.")
    round: int = Field(0, description="The batch's, when the job was last opened.")
    reopen: tuple[str, ...] | None = Field(
        None, description="Set until its failures of these codes (none meaning all) are cleared away for another try."
    )

    @classmethod
    def queued(cls, batch: BatchRecord, index: int, images: int, at: datetime) -> JobRecord:
        """A job of a batch that nobody has worked on."""
        manifest = batch.manifest
        return cls(
            batch_id=manifest.id,
            incarnation=manifest.incarnation,
            index=index,
            tenant=manifest.tenant,
            priority=batch.priority_now,
            created_at=manifest.created_at,
            updated_at=at,
            images=images,
        )

    @property
    def ref(self) -> str:
        """The job as people write it: batch/00003."""
        return job_ref(self.batch_id, self.index)


R = TypeVar("R", BatchRecord, JobRecord)


def advance(record: R, to: BatchState | JobState, *, at: datetime, **changes: Any) -> R:
    """The record moved to `to`, one revision on; the argument is unchanged. Raises IllegalMove.

    It waits for nothing any more, unless `changes` say so.
    """
    if isinstance(record, BatchRecord):
        legal, name = to in BATCH_MOVES.get(record.state, ()), f"batch {record.id}"
    else:
        legal, name = to in JOB_MOVES.get(record.state, ()), f"job {record.ref}"
    if not legal:
        raise IllegalMove(name, record.state.value, to.value)
    return changed(record, at=at, **({"state": to, "wait": None} | changes))


def changed(record: R, *, at: datetime, **changes: Any) -> R:
    """The record with `changes`, in the same state unless they say otherwise, one revision on."""
    return record.model_copy(update={"revision": record.revision + 1, "updated_at": at, **changes})
