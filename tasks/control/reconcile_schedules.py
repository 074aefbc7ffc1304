"""Bring schedules in line with the bucket after Redis was rolled back.

The bucket has each schedule as a user last changed it, and what became of each firing. What the ledger has forgotten of
them is put back; a firing that has no record is due again, and gives the batch that it gave before.
"""

from __future__ import annotations

import structlog

from pipeline.bucket.fetch import fetch
from pipeline.errors import RecordUnreadable, StaleWrite
from pipeline.ledger.schedules import FIRINGS_KEPT
from pipeline.process.parallel import in_order
from pipeline.records.schedules.schedule import ScheduleRecord, changed
from pipeline.records.schedules.schedule_keys import ScheduleObjects
from tasks.control.go_on import go_on
from tasks.control.schedules import recover_schedules, recovered, stored_firings
from tasks.process.context import Context

log = structlog.get_logger(__name__)

AT_A_TIME = 8


def reconcile_schedules(context: Context) -> int:
    """Put back what the ledger has forgotten of schedules; returns how many it had to. Raises ServiceError."""
    recover_schedules(context)
    names = context.ledger.schedules.names()
    return sum(in_order(lambda name: _reconciled(context, name), names, at_a_time=AT_A_TIME))


def _reconciled(context: Context, name: str) -> bool:
    with go_on(context, "schedule could not be compared with the bucket", schedule=name):
        return _reconcile(context, name)
    return False


def _reconcile(context: Context, name: str) -> bool:
    schedules, objects = context.ledger.schedules, ScheduleObjects(name)
    try:
        record = schedules.get(name)
        stored = fetch(ScheduleRecord, context.artifacts, objects.record)
        if record is None:
            return False
        if stored is None:
            return _remove_if_gone(context, name)
        known = {firing.id for firing in schedules.firings(name)}
        keys = sorted(context.artifacts.list(objects.firings), reverse=True)[:FIRINGS_KEPT]
        forgotten = [key for key in keys if objects.firing_of(key) not in known]
        if stored.updated_at <= record.updated_at and not forgotten:
            return False
        firings = list(stored_firings(context, objects))
        newest = stored if stored.updated_at > record.updated_at else record
        found = recovered(context, newest, firings)
        schedules.remember(name, firings)
        after = found.model_copy(update={"revision": record.revision})
        schedules.write(changed(after, at=context.ledger.now()))
    except RecordUnreadable as error:
        log.error("schedule cannot be compared with the bucket", schedule=name, reason=str(error))
        return False
    except StaleWrite as error:
        log.info("schedule has moved on", schedule=name, reason=str(error))
        return False
    log.warning("schedule brought in line with the bucket", schedule=name, forgotten_firings=len(forgotten))
    return True


def _remove_if_gone(context: Context, name: str) -> bool:
    """Take a schedule out of the ledger of which the bucket has nothing: its removal was forgotten."""
    objects = ScheduleObjects(name)
    if next(context.artifacts.list(objects.root), None) is not None or context.artifacts.head(objects.record):
        return False
    log.warning("schedule removed from the ledger: the bucket has nothing of it", schedule=name)
    return context.ledger.schedules.remove(name)
