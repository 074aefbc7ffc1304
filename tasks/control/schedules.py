"""Fire schedules. What is due follows from the ledger, and a batch's id from its firing, so that twice is once.

Beat only ticks; the tick asks for `fire`; whoever dies in between is made up for by the next tick.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import ValidationError

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.broker import EXPAND, FIRE, TICK, hint
from pipeline.errors import (
    BatchExists,
    ManifestError,
    NothingNew,
    RequestError,
    ServiceError,
    StaleWrite,
    StoreRefused,
    TesseraError,
    UnknownBatch,
)
from pipeline.ledger.schedules import FIRINGS_KEPT
from pipeline.operations.cancel import request_cancel
from pipeline.operations.declared import declare
from pipeline.operations.status import batch_status
from pipeline.operations.submit import Submission, accept
from pipeline.promptset.row import ResolvedRow, derived_seed
from pipeline.records.batch import BatchManifest, Origin
from pipeline.records.object_keys import MARKERS, BatchObjects
from pipeline.records.schedules.due import Turn, next_turn
from pipeline.records.schedules.row_digests import NewRows
from pipeline.records.schedules.schedule import (
    Firing,
    FiringOutcome,
    Overlap,
    ScheduleRecord,
    ScheduleSpec,
    changed,
    firing_id,
)
from pipeline.records.schedules.schedule_keys import SCHEDULES, ScheduleObjects
from pipeline.states import is_final
from tasks.control.unfinished_rows import unfinished_rows
from tasks.process.context import Context

log = structlog.get_logger(__name__)

MAX_REASON_CHARACTERS = 4_000
_RETRY_S = 5.0


def request_firings(context: Context) -> None:
    """Ask for the schedules that have a firing to see to."""
    for name in context.ledger.schedules.due():
        hint(context.app, FIRE, name)


def fire(context: Context, name: str) -> None:
    """See to every firing of a schedule that is due, one after the other, unless somebody is at it."""
    with context.ledger.locks.only_one(f"schedule-{name}") as mine:
        while mine and not context.stopping.is_set():
            record = context.ledger.schedules.get(name)
            turn = next_turn(record, context.ledger.now()) if record is not None else None
            if record is None or turn is None or not _fire_one(context, record, turn):
                return


def _fire_one(context: Context, record: ScheduleRecord, turn: Turn) -> bool:
    """Bring one firing to its end; False if it has to wait for a batch before it."""
    spec = record.spec
    if turn.missed:
        what = "1 firing" if turn.missed == 1 else f"{turn.missed} firings"
        _record_firing(
            context, turn, FiringOutcome.MISSED, reason=f"{what} up to this one came too late to be made up for"
        )
        return True
    running = [batch_id for batch_id in record.open if _is_running(context, batch_id)]
    if running and spec.overlap is Overlap.FORBID:
        if spec.catch_up and turn.late and turn.run is None:
            return False
        _record_firing(
            context, turn, FiringOutcome.SKIPPED, reason=f"{_progress_of(context, running[-1])}; overlap is forbid"
        )
        return True
    replaced = tuple(running) if spec.overlap is Overlap.REPLACE else ()
    row_filter = None
    try:
        row_filter = _new_rows_filter(context, record, turn, replaced) if spec.only_new else None
        manifest, left_out = _submit(context, record, turn, row_filter)
    except NothingNew as error:
        kept = {"open": tuple(running), "rows_key": row_filter.key if row_filter else None}
        _record_firing(context, turn, FiringOutcome.SKIPPED, reason=str(error), changes=kept)
    except (ManifestError, RequestError) as error:
        log.warning("a schedule's firing failed", schedule=record.name, firing=turn.id, reason=str(error))
        _record_firing(context, turn, FiringOutcome.FAILED, reason=str(error)[:MAX_REASON_CHARACTERS])
        return True
    except TesseraError:
        raise  # an outage, or somebody was quicker: the next tick goes on
    except Exception as error:  # it would come again at every tick, and no firing after it
        log.exception("our own program failed over a schedule's firing", schedule=record.name, firing=turn.id)
        reason = f"our own program failed: {type(error).__name__}: {error}"
        _record_firing(context, turn, FiringOutcome.FAILED, reason=reason[:MAX_REASON_CHARACTERS])
        return True
    else:
        for batch_id in replaced:
            _cancel(context, batch_id)
        rows_key = manifest.origin.rows_key if manifest.origin else None
        kept = {"open": (*(one for one in running if one != turn.id), turn.id), "rows_key": rows_key}
        told = {"rows": manifest.rows, "images": manifest.images, "unchanged": left_out, "replaced": replaced}
        _record_firing(context, turn, FiringOutcome.SUBMITTED, changes=kept, told=told)
        hint(context.app, EXPAND, turn.id)
        log.info("a schedule fired", schedule=record.name, batch=turn.id, rows=manifest.rows)
    if record.rows_key not in (None, kept["rows_key"]):
        context.artifacts.delete(str(record.rows_key))
    return True


def _submit(
    context: Context, record: ScheduleRecord, turn: Turn, row_filter: _NewRowsFilter | None
) -> tuple[BatchManifest, int]:
    """The batch of this firing, accepted now or before, and how many rows were left out."""
    if (before := _accepted_before(context, turn)) is not None:
        return before, 0
    spec = record.spec
    seed = spec.seed if spec.seed is not None else derived_seed(0, f"schedule {record.name}")
    _check_readable(context, spec.prompts)
    submission = Submission(
        prompts=spec.prompts,
        defaults=spec.options,
        batch_id=turn.id,
        tenant=spec.tenant,
        priority=spec.priority,
        seed=None if spec.vary_seed else seed,
        skip_invalid=spec.skip_invalid,
        row_filter=row_filter,
        origin=Origin(schedule=record.name, fire_at=turn.fire_at, rows_key=row_filter.key if row_filter else None),
    )
    try:
        accepted = accept(submission, context.ledger, context.artifacts)
    except BatchExists:
        if (before := _accepted_before(context, turn)) is None:
            raise
        return before, 0
    return accepted.manifest, accepted.left_out


def _check_readable(context: Context, url: str) -> None:
    """Tell a prompt set that we may not read, which fails the firing, from an outage of S3, which it waits for."""
    try:
        next(context.artifacts.chunks_of(url), None)
    except StoreRefused as error:
        raise RequestError(f"{url} may not be read by the controller: {error}") from error


def _accepted_before(context: Context, turn: Turn) -> BatchManifest | None:
    """The batch of this firing if it was accepted before. Raises BatchExists if its id is taken by another."""
    body = context.artifacts.get(BatchObjects(turn.id).manifest)
    if body is None:
        return None
    manifest = BatchManifest.model_validate_json(body)
    if manifest.origin is None or manifest.origin.schedule != turn.schedule:
        raise BatchExists(f"batch {turn.id!r} exists and is not of schedule {turn.schedule!r}; this firing is left out")
    return manifest


def _record_firing(
    context: Context,
    turn: Turn,
    outcome: FiringOutcome,
    *,
    reason: str | None = None,
    changes: Mapping[str, Any] | None = None,
    told: Mapping[str, Any] | None = None,
) -> None:
    """Write what became of a firing, once, whatever else changes the schedule meanwhile."""
    schedules = context.ledger.schedules
    while (record := schedules.get(turn.schedule)) is not None:
        known = any(firing.id == turn.id for firing in schedules.firings(turn.schedule))
        if known and _is_behind(record, turn):
            return
        now = context.ledger.now()
        firing = Firing(
            id=turn.id,
            fire_at=turn.fire_at,
            by_hand=turn.run is not None,
            outcome=outcome,
            reason=reason,
            recorded_at=now,
            rows_key=(changes or {}).get("rows_key"),
            **(told or {}),
        )
        seen_to: dict[str, Any] = {"cursor": max(record.cursor, turn.fire_at)}
        if turn.run is not None:
            seen_to = {"runs": tuple(run for run in record.runs if run.token != turn.run.token)}
        after = changed(record, at=now, **seen_to, **(changes or {}))
        try:
            schedules.write(after, None if known else firing)
        except StaleWrite:
            continue  # somebody changed the schedule: say it of what it is now
        key = ScheduleObjects(turn.schedule).firing(turn.id)
        context.artifacts.put(key, firing.model_dump_json().encode(), content_type="application/json")
        return


def _is_behind(record: ScheduleRecord, turn: Turn) -> bool:
    """Whether the schedule has gone on from this firing."""
    if turn.run is not None:
        return all(run.token != turn.run.token for run in record.runs)
    return record.cursor >= turn.fire_at


@dataclass(frozen=True)
class _NewRowsFilter:
    """The rows that are new, and where the digests of all of them go."""

    rows: NewRows
    artifacts: Artifacts
    key: str

    def wants(self, row: ResolvedRow) -> bool:
        return self.rows.wants(row)

    def finish(self) -> None:
        self.artifacts.put(self.key, self.rows.packed(), content_type="application/octet-stream")


def _new_rows_filter(context: Context, record: ScheduleRecord, turn: Turn, replaced: tuple[str, ...]) -> _NewRowsFilter:
    key = ScheduleObjects(record.name).rows(turn.id, secrets.token_hex(4))
    if record.rows_key is None or (turn.run is not None and turn.run.everything):
        return _NewRowsFilter(NewRows(b"", frozenset()), context.artifacts, key)
    broken_off = [one for one in record.open if one in replaced or not _is_running(context, one)]
    again = {digest for batch_id in broken_off for digest in unfinished_rows(context, batch_id)}
    return _NewRowsFilter(NewRows(context.artifacts.get(record.rows_key) or b"", again), context.artifacts, key)


def _is_running(context: Context, batch_id: str) -> bool:
    """Whether a batch is not finished; one that the ledger has lost is looked for in the bucket."""
    try:
        return not is_final(context.ledger.batches.state(batch_id))
    except UnknownBatch:
        objects = BatchObjects(batch_id)
        there = context.artifacts.head(objects.manifest) is not None
        return there and not any(context.artifacts.head(objects.marker(state)) for state in MARKERS)


def _progress_of(context: Context, batch_id: str) -> str:
    try:
        status = batch_status(context.ledger, batch_id)
    except UnknownBatch:
        return f"batch {batch_id} is not finished"
    return f"batch {batch_id} is {status.state} with {status.done} of {status.total} images done"


def _cancel(context: Context, batch_id: str) -> None:
    try:
        request_cancel(context.ledger, batch_id)
    except UnknownBatch:
        log.warning("a batch to be replaced is unknown", batch=batch_id)
    else:
        hint(context.app, TICK)


def recover_schedules(context: Context) -> None:
    """Put schedules into the ledger that are in the bucket and unknown here: Redis was emptied, or a client died."""
    known = set(context.ledger.schedules.names())
    for name in list(context.artifacts.folders(SCHEDULES)):
        if name not in known:
            _recover(context, name)


def _recover(context: Context, name: str) -> None:
    objects = ScheduleObjects(name)
    body = context.artifacts.get(objects.record)
    if body is None:
        return  # it is being removed
    try:
        record = ScheduleRecord.model_validate_json(body)
        keys = sorted(context.artifacts.list(objects.firings), reverse=True)[:FIRINGS_KEPT]
        bodies = [text for key in keys if (text := context.artifacts.get(key)) is not None]
        firings = [Firing.model_validate_json(text) for text in bodies]
    except ValidationError as error:
        log.error("a schedule in the bucket cannot be read; left alone", schedule=name, problems=error.error_count())
        return
    batches = [firing.id for firing in firings if firing.outcome is FiringOutcome.SUBMITTED]
    told = {firing.id for firing in firings}
    seen_to = [firing.fire_at for firing in firings if not firing.by_hand]
    found = changed(
        record,
        at=context.ledger.now(),
        cursor=max(record.cursor, *seen_to) if seen_to else record.cursor,
        runs=tuple(run for run in record.runs if firing_id(name, run.asked_at, run.token) not in told),
        open=tuple(one for one in reversed(batches) if one == batches[0] or _is_running(context, one)),
        rows_key=next((firing.rows_key for firing in firings if firing.rows_key), None),
    )
    context.ledger.schedules.remember(name, firings)
    if context.ledger.schedules.create(found):
        log.warning("found a schedule that the ledger did not know", schedule=name)
    if context.artifacts.head(objects.record) is None:  # it was removed while we looked
        context.ledger.schedules.remove(name)


def declare_schedules(context: Context, specs: Mapping[str, ScheduleSpec]) -> None:
    """Bring the schedules of the settings into the ledger, as soon as Redis and S3 let us."""
    while not context.stopping.is_set():
        try:
            with context.ledger.locks.only_one("schedules-declared") as mine:
                if mine:
                    recover_schedules(context)  # what is in the bucket knows whether one is paused
                    declare(context.ledger, context.artifacts, specs)
                    return
        except ServiceError as error:
            log.warning("could not bring in the schedules of the settings yet", reason=str(error))
        context.stopping.wait(_RETRY_S)
