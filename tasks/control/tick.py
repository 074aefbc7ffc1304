"""The controller's tick: find work that nobody does and send hints for it. So no lost message matters for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from pipeline.deployment.announcement import Deployment
from pipeline.deployment.broker import CANCEL, EXPAND, FINALIZE, PURGE, RECONCILE, RENDER, REOPEN, send_hint
from pipeline.deployment.broker_keys import RENDER_QUEUE, queue_key
from pipeline.errors import (
    LedgerUnavailable,
    RecordTooNew,
    RecordUnreadable,
    ServiceError,
    TesseraError,
    UnknownBatch,
)
from pipeline.names import job_ref
from pipeline.operations.resume import recover_batch, unknown_batches
from pipeline.states import BatchState, is_final
from pipeline.version import installed_version
from tasks.control.clean_staged import clean_staged
from tasks.control.fill_queues import clear_queues, fill_queues_if_due
from tasks.control.fire import request_firings
from tasks.control.generation import check_ledger
from tasks.control.purge import purge_expired
from tasks.control.schedules import recover_schedules
from tasks.process.context import Context

log = structlog.get_logger(__name__)

BUCKET_EVERY_S = 30.0
BUCKET_SHARE, LONGEST_REST_S = 0.05, 1800.0
CLEAN_STAGED_EVERY_S = 24 * 3600.0
RETENTION_EVERY_S = 3600.0
ORPHANS_EVERY_S = 10.0


def tick_if_due(context: Context) -> None:
    """Tick, unless that was done just now: many ticks may have queued up while no controller ran."""
    if context.ledger.locks.due("tick", context.settings.tick_s / 2):
        tick(context)


def tick(context: Context) -> None:
    """Tick, unless another process does."""
    with context.ledger.locks.only_one("tick") as mine:
        if not mine:
            return
        clear_queues(context)
        expired, due = context.ledger.leases.promote()
        if expired or due:
            log.info("jobs may be claimed again", expired_leases=expired, delays_over=due)
        # First, so that an outage of S3 or the cluster does not keep workers from what they can do.
        publish_hints(context)
        announce(context)
        if not check_ledger(context):
            return  # what follows cannot all be undone
        for batch_id in context.ledger.batches.unfinished():
            with _go_on_after_errors("next_step", batch=batch_id):
                request_next_step(context, batch_id)
        request_firings(context)
        with _go_on_after_errors("queues"):
            fill_queues_if_due(context)
        if context.ledger.locks.due("orphans", ORPHANS_EVERY_S):
            with _go_on_after_errors("orphans"):
                delete_orphans(context)
        if context.ledger.locks.due("bucket", BUCKET_EVERY_S):
            began = time.monotonic()
            with _go_on_after_errors("bucket"):
                recover_batches(context)
            with _go_on_after_errors("schedules"):
                recover_schedules(context)
            # Listing takes longer the more batches there are; the share of time spent on it stays the same.
            took_s = time.monotonic() - began
            context.ledger.locks.rest("bucket", min(took_s / BUCKET_SHARE, LONGEST_REST_S))
        if context.ledger.locks.due("retention", RETENTION_EVERY_S):
            with _go_on_after_errors("retention"):
                purge_expired(context)
        if context.ledger.locks.due("tidy", CLEAN_STAGED_EVERY_S):
            with _go_on_after_errors("clean_staged"):
                clean_staged(context.artifacts, context.ledger.now())


@contextmanager
def _go_on_after_errors(part: str, **bound: str) -> Iterator[None]:
    """Log an error of one batch, the cluster or the bucket, so that the tick goes on with its other work."""
    try:
        yield
    except LedgerUnavailable:
        raise
    except TesseraError as error:
        log.warning("part of the tick was put off", part=part, reason=str(error), **bound)
    except Exception:  # our own program failed over one of them: the others go on
        log.exception("part of the tick failed", part=part, **bound)


def announce(context: Context) -> None:
    """Tell clients what this deployment renders."""
    deployment = Deployment.of(context.settings, installed_version())
    try:
        waits = {name: context.launcher.awaits([name]) for name in context.settings.models}
    except ServiceError as error:
        log.warning("who copies weights could not be seen", reason=str(error))
    else:
        deployment = deployment.model_copy(update={"awaits": {name: why for name, why in waits.items() if why}})
    context.ledger.announce(deployment)


def request_next_step(context: Context, batch_id: str) -> None:
    """Send a hint for the next task that a batch as a whole needs."""
    try:
        context.ledger.batches.check(batch_id)
        record = context.ledger.batches.get(batch_id)
    except RecordTooNew:
        raise
    except RecordUnreadable:
        send_hint(context.app, RECONCILE, batch_id)  # it is written again from the bucket
        return
    if record.manifest.purge is not None:
        send_hint(context.app, PURGE, batch_id)
    if record.repair is not None:
        send_hint(context.app, RECONCILE, batch_id)
    if is_final(record.state):
        return
    if record.priority is not None:
        context.ledger.jobs.reprioritize(batch_id, record.priority)
    if back := context.ledger.leases.unpark(batch_id):
        log.info("jobs may be claimed again", batch=batch_id, after_pause=back)
    if record.state is BatchState.PAUSED and (record.jobs is None or record.reopen is not None):
        return
    if record.jobs is None:
        send_hint(context.app, EXPAND, batch_id)
        return
    if record.reopen is not None:
        send_hint(context.app, REOPEN, batch_id)
    elif not context.ledger.jobs.any_unfinished(batch_id):
        send_hint(context.app, FINALIZE, batch_id)
    elif record.state is BatchState.CANCELLING:
        send_hint(context.app, CANCEL, batch_id)


def publish_hints(context: Context) -> None:
    """Have as many hints waiting as there are jobs that workers have free slots for; other jobs wait in the ledger."""
    context.ledger.workers.forget_silent()
    free = sum(context.ledger.workers.free_slots().values())
    wanted = min(free, context.ledger.leases.backlog())
    if wanted == 0:
        return
    waiting = context.ledger.workers.hints(queue_key(context.settings.redis_prefix, RENDER_QUEUE))
    for _ in range(wanted - waiting):
        if not send_hint(context.app, RENDER):
            return


def delete_orphans(context: Context) -> None:
    """Delete attempts that are not the recorded attempt of their job.

    Only of batches whose jobs the ledger knows: an unknown batch may be one that it lost, and one without jobs is being
    rebuilt.
    """
    for name, seen in context.launcher.observe().items():
        if seen.batch_id is None or seen.job_index is None:
            continue
        try:
            if context.ledger.batches.get(seen.batch_id).jobs is None:
                continue
            job = context.ledger.jobs.get(job_ref(seen.batch_id, seen.job_index))
        except UnknownBatch:
            continue
        except RecordUnreadable as error:
            log.warning("attempt kept, its job cannot be read", name=name, reason=str(error))
            continue
        current = job.attempt.name if job is not None and job.attempt is not None else None
        if job is None or is_final(job.state) or current != name:
            log.warning("deleting orphaned attempt", name=name, batch=seen.batch_id, job=seen.job_index)
            context.launcher.delete(name)


def recover_batches(context: Context) -> None:
    """Put batches into the ledger that are accepted in the bucket, have not ended, and are unknown to it.

    An emptied Redis has forgotten when this was last done, so the next tick does it.
    """
    for manifest in unknown_batches(context.ledger, context.artifacts, ended=False):
        if recover_batch(context.ledger, manifest):
            send_hint(context.app, EXPAND, manifest.id)
