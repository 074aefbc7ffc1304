"""Fire schedules: submit the batch of each firing that is due.

What is due follows from the ledger, and a batch's id from its firing, so that firing twice gives one batch. Beat only
ticks, and the tick asks for `fire`; if a process dies in between, the next tick asks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog

from pipeline.bucket.fetch import fetch_manifest
from pipeline.deployment.broker import EXPAND, FIRE, TICK, send_hint
from pipeline.deployment.tenants import check_prompt_bucket
from pipeline.errors import (
    BatchExists,
    NothingNew,
    PromptSetError,
    RecordTooNew,
    RecordUnreadable,
    RequestError,
    StoreRefused,
    TesseraError,
    UnknownBatch,
)
from pipeline.ledger.update import update
from pipeline.operations.cancel import request_cancel
from pipeline.operations.prompt_files import OWN
from pipeline.operations.resume import has_ended, recover_batch
from pipeline.operations.status import batch_status
from pipeline.operations.submit import Submission, accept
from pipeline.promptset.fields.row import derived_seed
from pipeline.promptset.formats.lines import ReadOptions
from pipeline.records.batch import BatchManifest, Origin
from pipeline.records.schedules.due import Turn, next_turn
from pipeline.records.schedules.schedule import (
    Firing,
    FiringOutcome,
    Overlap,
    ScheduleRecord,
    changed,
)
from pipeline.records.schedules.schedule_keys import ScheduleObjects
from tasks.control.new_rows import NewRowsFilter, new_rows_filter
from tasks.control.unfinished_rows import is_unfinished
from tasks.process.context import Context

log = structlog.get_logger(__name__)

MAX_REASON_CHARACTERS = 4_000


def request_firings(context: Context) -> None:
    """Send a hint for each schedule that has a firing due."""
    for name in context.ledger.schedules.due():
        send_hint(context.app, FIRE, name)


def fire(context: Context, name: str) -> None:
    """Do every firing of a schedule that is due, one after the other, unless another process is doing it."""
    with context.ledger.locks.only_one(f"schedule-{name}") as mine:
        while mine and not context.stopping.is_set():
            record = context.ledger.schedules.get(name)
            turn = next_turn(record, context.ledger.now()) if record is not None else None
            if record is None or turn is None or not _fire_one(context, record, turn):
                return


def _fire_one(context: Context, record: ScheduleRecord, turn: Turn) -> bool:
    """Do one firing and record what became of it; False if it has to wait for an earlier batch."""
    spec = record.spec
    if turn.missed:
        what = "1 firing" if turn.missed == 1 else f"{turn.missed} firings"
        _record_firing(
            context, turn, FiringOutcome.MISSED, reason=f"{what} up to this one came too late to be made up for"
        )
        return True
    running = [batch_id for batch_id in record.open if is_unfinished(context, batch_id)]
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
        row_filter = new_rows_filter(context, record, turn, replaced) if spec.only_new else None
        manifest, left_out = _submit(context, record, turn, row_filter)
    except NothingNew as error:
        kept = {"open": tuple(running), "rows_key": row_filter.key if row_filter else None}
        _record_firing(context, turn, FiringOutcome.SKIPPED, reason=str(error), changes=kept)
    except (PromptSetError, RequestError) as error:
        log.warning("schedule could not fire", schedule=record.name, firing=turn.id, reason=str(error))
        _record_firing(context, turn, FiringOutcome.FAILED, reason=str(error)[:MAX_REASON_CHARACTERS])
        return True
    except RecordTooNew:
        raise  # a newer version fires it
    except RecordUnreadable as error:  # the rows of the firing before, say; it would repeat at every tick
        log.error("schedule could not fire", schedule=record.name, firing=turn.id, reason=str(error))
        _record_firing(context, turn, FiringOutcome.FAILED, reason=str(error)[:MAX_REASON_CHARACTERS])
        return True
    except TesseraError:
        raise  # an outage, or another process was first: the next tick tries again
    except Exception as error:  # otherwise it would repeat at every tick, and block all later firings
        log.exception("internal error while a schedule fired", schedule=record.name, firing=turn.id)
        reason = f"our own program failed: {type(error).__name__}: {error}"
        _record_firing(context, turn, FiringOutcome.FAILED, reason=reason[:MAX_REASON_CHARACTERS])
        return True
    else:
        for batch_id in replaced:
            _cancel(context, batch_id)
        rows_key = manifest.origin.rows_key if manifest.origin else None
        kept = {"open": (*(one for one in running if one != turn.id), turn.id), "rows_key": rows_key}
        counts = {"rows": manifest.rows, "images": manifest.images, "unchanged": left_out, "replaced": replaced}
        counts["unreached"] = manifest.unreached
        _record_firing(context, turn, FiringOutcome.SUBMITTED, changes=kept, counts=counts)
        send_hint(context.app, EXPAND, turn.id)
        log.info("schedule fired", schedule=record.name, batch=turn.id, rows=manifest.rows)
    if record.rows_key not in (None, kept["rows_key"]):
        context.artifacts.delete(str(record.rows_key))
    return True


def _submit(
    context: Context, record: ScheduleRecord, turn: Turn, row_filter: NewRowsFilter | None
) -> tuple[BatchManifest, int]:
    """The batch of this firing, accepted now or before, and how many rows were left out."""
    if (before := _accepted_before(context, turn)) is not None:
        return _known_to_ledger(context, before), 0
    spec = record.spec
    seed = spec.seed if spec.seed is not None else derived_seed(0, f"schedule {record.name}")
    _check_allowed(context, record, spec.prompts)
    _check_readable(context, spec.prompts)
    submission = Submission(
        prompts=spec.prompts,
        defaults=spec.options,
        overrides=spec.overrides,
        batch_id=turn.id,
        tenant=spec.tenant,
        priority=spec.priority,
        seed=None if spec.vary_seed else seed,
        skip_invalid=spec.skip_invalid,
        reading=ReadOptions(comments=spec.comments, extra_columns=spec.extra_columns),
        row_filter=row_filter,
        check_url=partial(_check_picture, context, record),
        origin=Origin(schedule=record.name, fire_at=turn.fire_at),
    )
    try:
        accepted = accept(submission, context.ledger, context.artifacts)
    except BatchExists:
        if (before := _accepted_before(context, turn)) is None:
            raise
        return _known_to_ledger(context, before), 0
    return accepted.manifest, accepted.left_out


def _check_allowed(context: Context, record: ScheduleRecord, url: str) -> None:
    """Raise RequestError, which fails the firing, if prompts or a row's image are in a bucket that is not for them.

    Whoever may add a schedule could read what only the controller may otherwise. The settings' own schedules are free.
    """
    settings, spec = context.settings, record.spec
    declared = settings.schedules.get(record.name)
    if isinstance(declared, Mapping) and declared.get("prompts") == spec.prompts:
        return
    check_prompt_bucket(
        url,
        spec.tenant,
        own=settings.s3_bucket,
        others=settings.prompt_buckets,
        tenants=settings.tenants,
    )


def _check_picture(context: Context, record: ScheduleRecord, url: str) -> None:
    """Raise RequestError, which refuses the row, if its image is not for the schedule's tenant."""
    _check_allowed(context, record, url)
    if url.removeprefix(context.artifacts.root).startswith(OWN):
        raise RequestError("an object among Tessera's own records found; batch://ID/CUSTOM_ID wanted")


def _check_readable(context: Context, url: str) -> None:
    """Raise RequestError, which fails the firing, if we may not read the prompt set. An outage of S3 is waited out."""
    try:
        next(context.artifacts.chunks_of(url), None)
    except StoreRefused as error:
        raise RequestError(f"{url} may not be read by the controller: {error}") from error


def _accepted_before(context: Context, turn: Turn) -> BatchManifest | None:
    """The batch of this firing if it was accepted before. Raises BatchExists if its id is taken by another."""
    try:
        manifest = fetch_manifest(context.artifacts, turn.id)
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        raise RequestError(str(error)) from error  # otherwise it would repeat at every tick
    if manifest is None:
        return None
    if manifest.origin is None or manifest.origin.schedule != turn.schedule:
        raise BatchExists(f"batch {turn.id!r} exists and is not of schedule {turn.schedule!r}; this firing is left out")
    return manifest


def _known_to_ledger(context: Context, manifest: BatchManifest) -> BatchManifest:
    """The same, after the ledger has it: whoever accepted it may have died in between."""
    if manifest.purge is None and not has_ended(context.artifacts, manifest.id):
        recover_batch(context.ledger, manifest)
    return manifest


def _record_firing(
    context: Context,
    turn: Turn,
    outcome: FiringOutcome,
    *,
    reason: str | None = None,
    changes: Mapping[str, Any] | None = None,
    counts: Mapping[str, Any] | None = None,
) -> None:
    """Record what became of a firing, once, also if the schedule is changed at the same time."""
    schedules, kept = context.ledger.schedules, changes or {}
    firing = Firing(
        id=turn.id,
        fire_at=turn.fire_at,
        by_hand=turn.run is not None,
        outcome=outcome,
        reason=reason,
        recorded_at=context.ledger.now(),
        rows_key=kept.get("rows_key"),
        **(counts or {}),
    )
    known = False

    def change(record: ScheduleRecord | None) -> ScheduleRecord | None:
        nonlocal known
        known = any(one.id == turn.id for one in schedules.firings(turn.schedule))
        if record is None or (known and _is_past(record, turn)):
            return None
        if turn.run is None:
            done: dict[str, Any] = {"cursor": max(record.cursor, turn.fire_at)}
        else:
            done = {"runs": tuple(run for run in record.runs if run.token != turn.run.token)}
        return changed(record, at=context.ledger.now(), **done, **kept)

    def write(record: ScheduleRecord) -> None:
        schedules.write(record, None if known else firing)

    if update(lambda: schedules.get(turn.schedule), change, write).written:
        key = ScheduleObjects(turn.schedule).firing(turn.id)
        context.artifacts.put(key, firing.model_dump_json().encode(), content_type="application/json")


def _is_past(record: ScheduleRecord, turn: Turn) -> bool:
    """Whether the schedule's record is past this firing already."""
    if turn.run is not None:
        return all(run.token != turn.run.token for run in record.runs)
    return record.cursor >= turn.fire_at


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
        log.warning("batch to be replaced is unknown", batch=batch_id)
    else:
        send_hint(context.app, TICK)
