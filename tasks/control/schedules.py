"""Put schedules into the ledger: those of the settings, and those that only the bucket still has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import structlog

from pipeline.bucket.fetch import fetch
from pipeline.errors import RecordUnreadable, RequestError, ServiceError
from pipeline.ledger.schedules import FIRINGS_KEPT
from pipeline.operations.declared import declare
from pipeline.records.schedules.schedule import (
    Firing,
    FiringOutcome,
    ScheduleRecord,
    ScheduleSpec,
    changed,
    checked_name,
    firing_id,
)
from pipeline.records.schedules.schedule_keys import SCHEDULES, ScheduleObjects
from tasks.control.go_on import go_on
from tasks.control.unfinished_rows import is_unfinished
from tasks.process.context import Context

log = structlog.get_logger(__name__)

_RETRY_S = 5.0


def recover_schedules(context: Context) -> None:
    """Put schedules into the ledger that only the bucket has: Redis was emptied, or a client died."""
    known = set(context.ledger.schedules.names())
    for name in list(context.artifacts.folders(SCHEDULES)):
        if name in known:
            continue
        with go_on(context, "a schedule in the bucket is left alone", schedule=name):
            try:
                _recover(context, checked_name(name))
            except RequestError as error:
                log.error("an object in the bucket is no schedule", name=name, reason=str(error))


def _recover(context: Context, name: str) -> None:
    objects = ScheduleObjects(name)
    record = fetch(ScheduleRecord, context.artifacts, objects.record)
    if record is None:
        return  # it is being removed
    firings = list(stored_firings(context, objects))
    context.ledger.schedules.remember(name, firings)
    if context.ledger.schedules.create(recovered(context, record, firings)):
        log.warning("schedule restored from the bucket", schedule=name)
    if context.artifacts.head(objects.record) is None:  # it was removed while we looked
        context.ledger.schedules.remove(name)


def stored_firings(context: Context, objects: ScheduleObjects) -> Iterator[Firing]:
    """The last firings that the bucket has and that can be read, newest first."""
    for key in sorted(context.artifacts.list(objects.firings), reverse=True)[:FIRINGS_KEPT]:
        try:
            firing = fetch(Firing, context.artifacts, key)
        except RecordUnreadable as error:
            log.warning("a firing in the bucket is left out", key=key, reason=str(error))
            continue
        if firing is not None:
            yield firing


def recovered(context: Context, record: ScheduleRecord, firings: Sequence[Firing]) -> ScheduleRecord:
    """The record of a schedule of which these firings, newest first, have been seen to."""
    batches = [firing.id for firing in firings if firing.outcome is FiringOutcome.SUBMITTED]
    recorded = {firing.id for firing in firings}
    seen_to = [firing.fire_at for firing in firings if not firing.by_hand]
    return changed(
        record,
        at=context.ledger.now(),
        cursor=max(record.cursor, *seen_to) if seen_to else record.cursor,
        runs=tuple(run for run in record.runs if firing_id(record.name, run.asked_at, run.token) not in recorded),
        open=tuple(one for one in reversed(batches) if one == batches[0] or is_unfinished(context, one)),
        rows_key=next((firing.rows_key for firing in firings if firing.rows_key), None),
    )


def declare_schedules(context: Context, specs: Mapping[str, ScheduleSpec]) -> None:
    """Put the schedules of the settings into the ledger, as soon as Redis and S3 can be reached."""
    while not context.stopping.is_set():
        try:
            with context.ledger.locks.only_one("schedules-declared") as mine:
                if mine:
                    recover_schedules(context)  # first, because the bucket says which of them are paused
                    declare(context.ledger, context.artifacts, specs)
                    return
        except ServiceError as error:
            log.warning("schedules of the settings could not be declared yet", reason=str(error))
        context.stopping.wait(_RETRY_S)
