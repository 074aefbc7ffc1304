"""The status of a batch, as clients see it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pipeline.errors import RecordUnreadable, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.operations.waits import queued_for
from pipeline.records.attempt import DISRUPTIONS, NO_FAILURES
from pipeline.records.batch import AttemptEnd, BatchRecord, JobRecord, Purge
from pipeline.states import BatchState, ImageState, JobState, is_final


@dataclass(frozen=True)
class BatchStatus:
    """The status of a batch at one moment. Images and jobs are counted in one step by the ledger."""

    id: str
    state: BatchState
    reason: str | None  # why it failed, or what its next step waits for
    created_at: datetime
    updated_at: datetime
    seen_at: datetime
    images: dict[ImageState, int]
    jobs: dict[JobState, int]
    invalid_rows: int
    purge: Purge | None = None  # it is being removed
    repair: str | None = None  # what is being done to bring it in line with the bucket
    tenant: str = "default"
    schedule: str | None = None  # that submitted it
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 5  # 0 is served first, 9 last

    @property
    def total(self) -> int:
        """Images of the batch."""
        return sum(self.images.values())

    @property
    def succeeded(self) -> int:
        return self.images[ImageState.SUCCEEDED]

    @property
    def failed(self) -> int:
        return self.images[ImageState.FAILED]

    @property
    def cancelled(self) -> int:
        return self.images[ImageState.CANCELLED]

    @property
    def done(self) -> int:
        """Images with an outcome: succeeded, failed or cancelled."""
        return self.total - self.images[ImageState.QUEUED] - self.images[ImageState.RUNNING]

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return is_final(self.state)

    @property
    def elapsed_s(self) -> float:
        """Seconds from submission to the end, or until now."""
        return ((self.updated_at if self.finished else self.seen_at) - self.created_at).total_seconds()

    @property
    def exit_code(self) -> int:
        """The exit code of a command that waited for this batch: 0 all images succeeded, 3 some, 4 none."""
        if self.state is BatchState.COMPLETED and self.succeeded == self.total and not self.invalid_rows:
            return 0
        return 3 if self.succeeded else 4

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for scripts."""
        fields = asdict(self)
        for name in ("created_at", "updated_at", "seen_at"):
            fields[name] = fields[name].isoformat()
        return fields | {
            "state": self.state.value,
            "total": self.total,
            "done": self.done,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "finished": self.finished,
            "elapsed_s": round(self.elapsed_s, 3),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> BatchStatus:
        """The status that `as_dict` gave."""
        moments = {name: datetime.fromisoformat(found[name]) for name in ("created_at", "updated_at", "seen_at")}
        return cls(
            id=found["id"],
            state=BatchState(found["state"]),
            reason=found["reason"],
            **moments,
            images={state: found["images"].get(state, 0) for state in ImageState},
            jobs={state: found["jobs"].get(state, 0) for state in JobState},
            invalid_rows=found["invalid_rows"],
            purge=Purge(found["purge"]) if found["purge"] else None,
            repair=found["repair"],
            tenant=found["tenant"],
            schedule=found["schedule"],
            labels=found["labels"],
            priority=found.get("priority", 5),
        )

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """How IPython shows it, also in a list."""
        printer.text(f"{self.id} {self.state.value}: {self._counts()}{f' ({self.reason})' if self.reason else ''}")

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        labels = ", ".join(f"{name}={value}" for name, value in self.labels.items())
        lines = {
            "batch": self.id,
            "state": self.state.value,
            "images": self._counts(),
            "jobs": ", ".join(f"{count} {state.value}" for state, count in self.jobs.items() if count),
            "reason": self.reason,
            "repair": self.repair,
            "submitted": f"{self.created_at:%Y-%m-%d %H:%M:%S} UTC, {self.elapsed_s:.0f} s",
            "labels": labels,
        }
        rows = (f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in lines.items() if text)
        return f'<table style="text-align: left">{"".join(rows)}</table>'

    def _counts(self) -> str:
        others = (f"{count} {state.value}" for state, count in self.images.items() if count)
        return f"{self.succeeded} of {self.total} are there" if self.succeeded == self.total else ", ".join(others)


@dataclass(frozen=True)
class Unreadable:
    """In a list, one whose record this version cannot read. It was left as it is."""

    id: str
    reason: str

    @classmethod
    def of(cls, name: str, error: RecordUnreadable) -> Unreadable:
        """The entry of this one; what a terminal cannot show of its name is escaped."""
        return cls(name if name.isprintable() else ascii(name)[1:-1], ascii(str(error))[1:-1])

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for scripts."""
        return {"id": self.id, "state": "unreadable", "reason": self.reason}


@dataclass(frozen=True)
class JobStatus:
    """A job whose first attempt has begun and that is not final."""

    ref: str
    state: JobState
    attempt: int
    detail: str  # as the cluster reports it, or what it waits for; of one that is retried, why its last attempt ended
    layout: str  # of the latest attempt
    layout_reason: str
    ended: tuple[AttemptEnd, ...]

    @property
    def failed_attempts(self) -> int:
        """Attempts that failed by themselves."""
        return sum(end.code not in NO_FAILURES for end in self.ended)

    @property
    def disruptions(self) -> int:
        """Attempts that the cluster took away, which cost the job none of those that it may have."""
        return sum(end.code in DISRUPTIONS for end in self.ended)

    @property
    def history(self) -> str:
        """The attempt's number, and how those before it ended: `attempt 4 (1 failed, 2 disrupted)`."""
        return f"attempt {self.history_short}"

    @property
    def history_short(self) -> str:
        """The same where a title says what it is: `4 (1 failed, 2 disrupted)`."""
        counts = ((self.failed_attempts, "failed"), (self.disruptions, "disrupted"))
        before = ", ".join(f"{count} {how}" for count, how in counts if count)
        return str(self.attempt) + (f" ({before})" if before else "")

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for scripts."""
        ended = [
            end.model_dump(mode="json", include={"number", "code", "reason", "ended_at", "node"}) for end in self.ended
        ]
        return {
            "job": self.ref,
            "state": self.state.value,
            "attempt": self.attempt,
            "failed_attempts": self.failed_attempts,
            "disruptions": self.disruptions,
            "detail": self.detail,
            "layout": self.layout,
            "layout_reason": self.layout_reason,
            "ended": ended,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> JobStatus:
        """The status that `as_dict` gave."""
        return cls(
            found["job"],
            JobState(found["state"]),
            found["attempt"],
            found["detail"],
            found["layout"],
            found["layout_reason"],
            tuple(AttemptEnd.model_validate(end) for end in found["ended"]),
        )


def jobs_status(ledger: Ledger, batch_id: str, limit: int = 100) -> list[JobStatus]:
    """The jobs of a batch that have begun and are not final, in order."""
    return [
        JobStatus(
            job.ref,
            # Of a job that waits before its first attempt the record says that it is tried again.
            JobState.PENDING if job.attempt is None and job.state is JobState.RETRYING else job.state,
            job.attempt.number if job.attempt else 0,
            _detail(job),
            str(job.attempt.layout) if job.attempt else "",
            job.layout_reason,
            job.ended,
        )
        for job in ledger.jobs.begun(batch_id, limit)
    ]


def _detail(job: JobRecord) -> str:
    if job.wait is not None:
        return job.wait.reason
    if job.state is JobState.RETRYING and job.ended:
        return f"{job.ended[-1].code.value}: {job.ended[-1].reason}"
    return job.detail


def batch_status(ledger: Ledger, batch_id: str) -> BatchStatus:
    """The status of a batch now. Raises UnknownBatch."""
    record, counts, now = ledger.batches.look(batch_id)
    return BatchStatus(
        id=batch_id,
        state=record.state,
        reason=record.reason or _wait(ledger, record, counts.jobs),
        created_at=record.manifest.created_at,
        updated_at=record.updated_at,
        seen_at=now,
        images=dict(counts.images),
        jobs=dict(counts.jobs),
        invalid_rows=record.manifest.invalid_rows,
        purge=record.manifest.purge,
        repair=_repair(record),
        tenant=record.manifest.tenant,
        schedule=record.manifest.origin.schedule if record.manifest.origin is not None else None,
        labels=record.manifest.labels,
        priority=record.priority_now,
    )


def _wait(ledger: Ledger, record: BatchRecord, jobs: Mapping[JobState, int]) -> str | None:
    return record.wait.reason if record.wait is not None else queued_for(ledger, record, jobs)


def _repair(record: BatchRecord) -> str | None:
    if record.repair is not None:
        return "a repair is requested: the controller compares it with the bucket"
    if record.recovered and record.jobs is None and not is_final(record.state):
        return "it is being rebuilt from the bucket"
    return None


def under_repair(ledger: Ledger) -> dict[str, str]:
    """What is being done to batches to bring them in line with the bucket, by their ids."""
    found: dict[str, str] = {}
    for batch_id in ledger.batches.unfinished():
        try:
            repair = _repair(ledger.batches.get(batch_id))
        except UnknownBatch:
            continue
        except RecordUnreadable as error:
            repair = str(error)
        if repair is not None:
            found[batch_id] = repair
    return found
