"""One attempt at a job: its complete spec, what may be seen of it, how it ended, and what its pod reports.

An attempt is one Kubernetes Job, which is one pod (or one process group of the local node). Whoever runs attempts
implements `Launcher`; the ledger alone decides about another attempt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, Self

from pydantic import ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from pipeline.deployment.adapter_memory import adapter_pixels
from pipeline.deployment.cost import tera_operations
from pipeline.deployment.displacement import UNSAID, Displacement
from pipeline.deployment.layout_choice import Load
from pipeline.deployment.layouts import Layout
from pipeline.deployment.settings import RenderingSettings
from pipeline.errors import ConflictError, RecordUnreadable
from pipeline.names import job_ref
from pipeline.picture import Picture
from pipeline.records.object_keys import ObjectKey
from pipeline.records.usage import Usage
from pipeline.schema import OpenCode, Versioned, read_record
from pipeline.stored import Record

SCHEMA_VERSION = 1

REPORT_LIMIT_BYTES = 4096  # what a kubelet keeps of a termination message

# What a pod exits with when no retry mends its end: it cannot read its attempt (EX_USAGE of sysexits.h), or its
# deployment is wrong (EX_CONFIG). A Job remembers the code when its pod, and with it the report, is gone.
EXIT_USAGE, EXIT_CONFIG = 64, 78
HOPELESS_EXIT_CODES = (EXIT_USAGE, EXIT_CONFIG)


class AttemptSpec(Versioned):
    """Everything that decides what a pod does, recorded before the pod is launched.

    Adoption compares with the recorded spec, never with one built anew: an upgrade of the workers must not orphan
    what runs. Credentials are not part of it; a pod gets them from its environment.
    """

    # extra="allow": what a newer version says in it goes on to the pod, and its digest stays what it was.
    model_config = ConfigDict(extra="allow")

    schema_version: int = SCHEMA_VERSION
    name: str = Field(description="Name of the Kubernetes Job; follows from incarnation, job and attempt.")
    batch_id: str
    incarnation: str
    job_index: int = Field(ge=0)
    number: int = Field(ge=1, description="Which attempt of its job this is, from 1.")
    token: str = Field(description="Random; the pod shows it with its claim.")
    image: str = Field(description="Container image by digest, or `local`.")
    gpus: int = Field(ge=1)
    layout: Layout = Field(description="data x cfg x patch, as in 1x2x4.")
    exact: bool
    warmup_steps: int = Field(ge=0)
    device: str
    dtype: str
    vae_dtype: str = "float32"
    # Left out where it says nothing, so that the digest of what an older version has recorded stays.
    vae_dtype_on_gpu: str | None = Field(
        None, exclude_if=lambda value: value is None, description="On a GPU, where it is not `vae_dtype`."
    )
    displacement: Displacement = Field(
        UNSAID, exclude_if=lambda value: value == UNSAID, description="How displaced evaluations are computed."
    )
    idle_ranks: bool = False
    lean: tuple[int, ...] = Field((), description="Images, by index, to render in as little memory as can be.")
    slots: int = Field(
        1, ge=1, exclude_if=lambda value: value == 1, description="Images that a replica evaluates together at most."
    )
    alone: tuple[int, ...] = Field(
        (),
        exclude_if=lambda value: not value,
        description="Images, by index, to render while no other is: one of them may have ended an attempt.",
    )
    shard_key: ObjectKey = Field(
        description="Object that holds the rows of this job, relative to the deployment's prefix."
    )
    deadline_s: float = Field(gt=0, description="Longest running time.")
    avoid_nodes: tuple[str, ...] = Field((), description="Nodes whose GPU proved bad under this job before.")

    @property
    def job_ref(self) -> str:
        """The job this is an attempt of, as people write it: batch/00003."""
        return job_ref(self.batch_id, self.job_index)

    @property
    def digest(self) -> str:
        """Short hash of the whole spec: two specs are the same attempt if and only if it is equal."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def decided_by(settings: RenderingSettings, row: Picture) -> dict[str, Any]:
    """What settings, and a row of the job, decide of an attempt, by the names of the spec's fields."""
    return {
        "gpus": settings.gpus,
        "exact": settings.exact,
        "warmup_steps": settings.warmup_steps,
        "displacement": settings.displacement.of(row),
        "device": settings.device,
        "dtype": settings.dtype,
        "vae_dtype": "float32" if settings.vae_dtype == "auto" else settings.vae_dtype,
        "vae_dtype_on_gpu": "bfloat16" if settings.vae_dtype == "auto" and not settings.exact else None,
        "idle_ranks": settings.idle_ranks,
    }


def loads_of(rows: Iterable[Picture], settings: RenderingSettings) -> list[Load]:
    """Rows as a layout sees them. A model that is not there any more fails in the pod, with a reason."""
    native_px = {name: model.native_px for name, model in settings.models.items()}
    return [
        Load(row.width, row.height, tera_operations(row, native_px.get(row.model, row.width)), adapter_pixels(row))
        for row in rows
    ]


# What torchrun's --shutdown-timeout reads where it is not given: whole seconds that ranks get to end after SIGTERM.
SHUTDOWN_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"


def torchrun(python: str, gpus: int) -> list[str]:
    """The command of a pod, by the interpreter to use: torchrun, but for the exit code (see distri/run/torchrun.py)."""
    return [python, "-P", "-m", "distri.run.torchrun", "--standalone", f"--nproc-per-node={gpus}", "-m", "distri.run"]


# In torchrun's summary of failed ranks, which is in the log. A rank that was killed need not be the first of them.
RANK_KILLED = re.compile(r"exitcode\s*:\s*-9\b")


class Code(OpenCode):
    """How an attempt ended. What follows from each is the retry policy's business."""

    SUCCEEDED = "SUCCEEDED"
    ENGINE_ERROR = "ENGINE_ERROR"  # the program's own reason is in the report
    OUT_OF_MEMORY = "OUT_OF_MEMORY"  # a rank's own memory, its GPU's; the report names the image
    OOM_KILLED = "OOM_KILLED"  # the pod's, by the kernel
    DEADLINE = "DEADLINE"
    IMAGE_PULL = "IMAGE_PULL"
    UNSCHEDULABLE = "UNSCHEDULABLE"  # no node could take the pod for as long as it may wait
    CONFIG_ERROR = "CONFIG_ERROR"  # the deployment is wrong: no retry mends it
    STORAGE = "STORAGE"
    PREEMPTED = "PREEMPTED"
    EVICTED = "EVICTED"
    NODE_LOST = "NODE_LOST"
    GPU_UNHEALTHY = "GPU_UNHEALTHY"
    QUOTA = "QUOTA"
    ADMISSION_DENIED = "ADMISSION_DENIED"
    DELETED = "DELETED"
    CLAIM_REFUSED = "CLAIM_REFUSED"  # the pod found its place taken and did nothing
    TOO_OLD = "TOO_OLD"  # the pod's program cannot read what it was asked to do, and did nothing
    PAUSED = "PAUSED"  # it stopped between two images because its batch was paused
    KILLED = "KILLED"  # by a signal that nobody of us sent
    UNKNOWN = "UNKNOWN"


# Ends by which the cluster took the pod away: they cost the job no attempt.
DISRUPTIONS = frozenset(
    {
        *(Code.PREEMPTED, Code.EVICTED, Code.NODE_LOST, Code.DELETED),
        *(Code.QUOTA, Code.UNSCHEDULABLE, Code.CLAIM_REFUSED, Code.TOO_OLD),
    }
)
# ... and those that nobody failed by: it was asked to end, or has done all that it should.
NO_FAILURES = DISRUPTIONS | {Code.PAUSED, Code.SUCCEEDED}


class PodReport(Record):
    """What a pod writes to its termination log when it ends, at most 4096 bytes of JSON.

    Read whatever its version: it only explains, and the bucket decides.
    """

    schema_version: int = SCHEMA_VERSION
    code: Code
    message: str = ""
    rank: int | None = Field(None, description="The rank that ended badly first; None if none did.")
    image: int | None = Field(None, description="Index of the image that is to blame, where the pod knows it.")
    committed: int = Field(0, ge=0, description="Images that this pod put into the bucket.")
    skipped: int = Field(0, ge=0, description="Images that were there before.")
    failed: int = Field(0, ge=0, description="Images that this pod gave up on, each with a reason of its own.")
    usage: Usage | None = None

    @field_validator("code")
    @classmethod
    def _of_ours(cls, code: Code) -> Code:
        return code if code in Code else Code.UNKNOWN

    @field_validator("usage", mode="wrap")
    @classmethod
    def _nothing_impossible(cls, usage: object, read: ValidatorFunctionWrapHandler) -> Usage | None:
        """What cannot have been spent is not counted, and takes nothing else of the report with it."""
        try:
            found: Usage | None = read(usage)
        except ValidationError:
            return None
        return found

    @classmethod
    def from_message(cls, message: str) -> Self | None:
        """The report in a termination message; None if that is something else, such as the end of a log."""
        try:
            return read_record(cls, message, what="a termination message")
        except RecordUnreadable:
            return None

    def to_message(self) -> str:
        """The report as it is written: JSON, its message shortened until the whole fits the kubelet's limit."""
        report = self
        while len(text := report.model_dump_json().encode()) > REPORT_LIMIT_BYTES:
            excess = len(text) - REPORT_LIMIT_BYTES
            # One character takes at most six bytes of JSON, so this never cuts more than it must.
            report = report.model_copy(update={"message": report.message[: -(excess // 6 + 1)]})
        return text.decode()


class AttemptPhase(StrEnum):
    """What a launcher sees of an attempt while it lasts, and that it ended."""

    WAITING_QUOTA = "waiting_quota"
    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class AttemptOutcome:
    """How one attempt ended: the code decides, the reason is for people."""

    code: Code
    reason: str
    exit_code: int | None = None
    report: PodReport | None = None
    node: str | None = None


@dataclass(frozen=True)
class Observation:
    """One look at one attempt. `outcome` is set if and only if the phase is ENDED."""

    name: str
    phase: AttemptPhase
    detail: str = ""
    outcome: AttemptOutcome | None = None
    batch_id: str | None = None
    job_index: int | None = None
    spec: AttemptSpec | None = None  # as it was launched, where that can be read


class LaunchResult(StrEnum):
    CREATED = "created"
    ADOPTED = "adopted"  # it was there already, and is the attempt on record


class NameTaken(ConflictError):
    """Something else holds the attempt's name."""

    def __init__(self, name: str, found: str, wanted: str) -> None:
        super().__init__(f"{name} exists with spec {found}, the record says {wanted}")


class Launcher(Protocol):
    """Who runs attempts: a Kubernetes cluster, or the local node. An outage raises ServiceError."""

    def awaits(self, models: Collection[str]) -> str | None:
        """Why attempts with these models wait, somebody still copying their weights; None if nobody is."""

    def launch(self, spec: AttemptSpec) -> LaunchResult:
        """Create the attempt, or adopt it if it is there with this very spec. Raises NameTaken otherwise."""

    def observe(self) -> Mapping[str, Observation]:
        """Every attempt of this deployment that exists, by name: one LIST, the truth."""

    def quiet_since(self, moment: float) -> bool:
        """Whether a watch has heard nothing move since then (time.monotonic()): a hint, False if in doubt."""

    def delete(self, name: str) -> None:
        """End the attempt and forget it, in the background; nothing happens if it is not there."""
