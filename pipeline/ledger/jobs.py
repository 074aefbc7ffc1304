"""Jobs in the ledger."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from enum import StrEnum

from pipeline.errors import BatchLost, LeaseLost, RecordUnreadable, StaleWrite
from pipeline.ledger.keys import PRIORITY_STEP
from pipeline.ledger.scripts import Argument
from pipeline.ledger.store import Store
from pipeline.names import batch_of
from pipeline.records.batch import JobRecord
from pipeline.schema import read_record


class QueuePlace(StrEnum):
    """Where a job waits after a write."""

    BACKLOG = "backlog"  # any worker may claim it
    HELD = "held"  # the writer keeps its lease
    DELAYED = "delayed"  # nobody may claim it before its delay is over
    DONE = "done"  # final


_REVISION = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)  # as a step writes it, and counts on it exactly

_JOBS_A_ROUND_TRIP = 200  # a few milliseconds of Redis' time, in which others wait


def _readable(ref: str, text: str) -> JobRecord | None:
    try:
        return read_record(JobRecord, text, what=f"job {ref}")
    except RecordUnreadable:
        return None


def _arguments(
    record: JobRecord,
    expected: int,
    place: QueuePlace,
    *,
    fence: str = "",
    delay_s: float = 0,
    cut_into: int | None = None,
    anew: bool = False,
) -> dict[str, Argument]:
    """What lua/write_job.lua takes."""
    return {
        "ref": record.ref,
        "batch": record.batch_id,
        "expected": expected,
        "fence": fence,
        "state": record.state.value,
        "record": record.model_dump_json(),
        "place": place.value,
        "delay_ms": int(delay_s * 1000),
        "tenant": record.tenant,
        "score": record.priority * PRIORITY_STEP + int(record.created_at.timestamp() * 1000),
        "index": record.index,
        "attempt": record.attempt.number if record.attempt else 0,
        "token": record.attempt.token if record.attempt else "",
        "incarnation": record.incarnation,
        "indices": record.indices,
        "cut_into": "" if cut_into is None else cut_into,
        "anew": int(anew),
    }


def _is_new(record: JobRecord, answer: int) -> bool:
    _check_batch(record, answer)
    return answer >= 0


def _check_batch(record: JobRecord, answer: int) -> None:
    if answer == -3:
        raise StaleWrite(
            f"job {record.ref} was not written: the ledger has no batch {record.batch_id} of incarnation "
            f"{record.incarnation} that is cut as it was when it was read"
        )


class Jobs:
    """Read and write job records; a write fails without the lease, or if the record has changed since it was read."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, record: JobRecord, place: QueuePlace = QueuePlace.BACKLOG, *, cut_into: int | None = None) -> bool:
        """Put a new job into the ledger; False if it is there already, which is not changed.

        It assumes the batch as its writer read it: of the job's incarnation, and with `cut_into` jobs on record, None
        before it is let run. Raises StaleWrite if the ledger does not have that batch.
        """
        step = _arguments(record, 0, place, cut_into=cut_into)
        return _is_new(record, int(self._store.run("write_job", **step)))

    def create_all(self, records: Iterable[JobRecord]) -> int:
        """Put new jobs of batches that are not cut yet into the backlog, many with one round trip.

        Jobs that are there already are not changed. Returns how many are new. Each is created by a step of its own, so
        this may be repeated if it was interrupted. Raises StaleWrite as `create`; some may be created then.
        """
        new, rest = 0, iter(records)
        while some := list(itertools.islice(rest, _JOBS_A_ROUND_TRIP)):
            steps = [_arguments(record, 0, QueuePlace.BACKLOG) for record in some]
            answers = self._store.run_each("write_job", steps)
            new += sum(_is_new(record, answer) for record, answer in zip(some, answers, strict=True))
        return new

    def reprioritize(self, batch_id: str, priority: int, *, mark: str) -> int:
        """Give all jobs of a batch that are not final this priority; returns how many there are.

        `mark` is what an inspection of the batch finds from then on; '' leaves that as it was.
        """
        return int(self._store.run("reprioritize", batch=batch_id, priority=priority, mark=mark))

    def write(self, record: JobRecord, place: QueuePlace, *, fence: str, delay_s: float = 0, anew: bool = False) -> int:
        """Write a record that was made from the one that was read or, with `anew`, from its batch.

        `fence` is the writer's lease; without one ("") the job must be held by nobody. Returns how many jobs of
        the batch are not final yet. Raises StaleWrite or LeaseLost; the record is then as it was.
        """
        step = _arguments(record, record.revision - 1, place, fence=fence, delay_s=delay_s, anew=anew)
        answer = int(self._store.run("write_job", **step))
        if answer == -1:
            raise StaleWrite(f"job {record.ref} has moved on from revision {record.revision - 1}")
        if answer == -2:
            raise LeaseLost(f"job {record.ref} is held by another worker")
        _check_batch(record, answer)
        return answer

    def get(self, ref: str) -> JobRecord | None:
        """The record of a job. Raises RecordUnreadable."""
        with self._store.errors():
            text = self._store.redis.hget(self._store.keys.job(ref), "record")
        return read_record(JobRecord, str(text), what=f"job {ref}") if text is not None else None

    def replace(
        self, record: JobRecord, place: QueuePlace, *, fence: str, delay_s: float, cut_into: int | None
    ) -> None:
        """Write a record in the place of one that cannot be read, or is gone; `cut_into` as of `create`.

        Raises StaleWrite or LeaseLost.
        """
        revision = self._revision(record.ref)
        if revision is None:
            with self._store.errors():  # nothing is known of it
                self._store.redis.delete(self._store.keys.job(record.ref))
        if revision:
            again = record.model_copy(update={"revision": revision + 1})
            self.write(again, place, fence=fence, delay_s=delay_s, anew=True)
        else:
            step = _arguments(record, 0, place, delay_s=delay_s, cut_into=cut_into)
            _is_new(record, int(self._store.run("write_job", **step)))

    def _revision(self, ref: str) -> int | None:
        """The revision beside the record of a job, 0 if there is none; None if what stands there is no revision."""
        try:
            with self._store.errors():
                text = self._store.redis.hget(self._store.keys.job(ref), "revision")
        except RecordUnreadable:
            return None
        if text is None:
            return 0
        return int(text) if _REVISION.fullmatch(text) else None

    def attempt_on_record(self, ref: str) -> int:
        """Number of the job's current or last attempt, also if its record cannot be read; 0 if none is known."""
        try:
            with self._store.errors():
                return int(self._store.redis.hget(self._store.keys.ticket(ref), "attempt") or 0)
        except (RecordUnreadable, ValueError):
            return 0

    def unfinished(self, batch_id: str) -> list[str]:
        """Refs of the jobs of a batch that are not final, in order."""
        with self._store.errors():
            return list(self._store.redis.zrange(self._store.keys.jobs(batch_id), 0, -1))

    def begun(self, batch_id: str, limit: int) -> list[JobRecord]:
        """The first `limit` jobs of a batch whose first attempt has begun and that are not final, in order.

        One that cannot be read is left out.
        """
        with self._store.errors():
            refs = self._store.redis.zrange(self._store.keys.begun(batch_id), 0, limit - 1)
            pipe = self._store.redis.pipeline(transaction=False)
            for ref in refs:
                pipe.hget(self._store.keys.job(ref), "record")
            found = pipe.execute()
        some = zip(refs, found, strict=True)
        return [job for ref, text in some if text is not None and (job := _readable(ref, str(text))) is not None]

    def any_unfinished(self, batch_id: str) -> bool:
        """Whether a job of the batch is not final."""
        with self._store.errors():
            return bool(self._store.redis.exists(self._store.keys.jobs(batch_id)))

    def held(self, ref: str) -> bool:
        """Whether a worker holds a lease on the job."""
        with self._store.errors():
            return self._store.redis.zscore(self._store.keys.leases, ref) is not None

    def register_pod(self, ref: str, *, attempt: int, token: str, uid: str) -> str | None:
        """Claim the right to report for a job; None if it is the caller's, else why it is refused.

        Raises BatchLost if the ledger does not know the job.
        """
        answer = self._store.run("register_pod", ref=ref, attempt=attempt, token=token, uid=uid)
        if answer is None:
            raise BatchLost(batch_of(ref))
        return str(answer) or None
