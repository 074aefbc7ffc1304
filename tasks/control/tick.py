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
from pipeline.ledger.inspections import Seen
from pipeline.names import job_ref
from pipeline.operations.resume import has_ended, recover_batch, unknown_batches
from pipeline.records.listed_files import ListedFiles
from pipeline.states import BatchState, is_final
from pipeline.version import installed_version
from tasks.control import fill_queues
from tasks.control.clean_staged import clean_staged
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
        fill_queues.clear_queues(context)
        expired, due = context.ledger.leases.promote()
        if expired or due:
            log.info("jobs may be claimed again", expired_leases=expired, delays_over=due)
        # First, so that an outage of S3 or the cluster does not keep workers from what they can do.
        publish_hints(context)
        announce(context)
        if not check_ledger(context):
            return  # what follows cannot all be undone
        for batch_id, seen in context.ledger.batches.inspect(context.ledger.batches.unfinished()):
            with _go_on_after_errors("next_step", batch=batch_id):
                _request(context, batch_id, seen)
        request_firings(context)
        works = context.ledger.locks.which_due(
            {
                "lists": fill_queues.LISTS_EVERY_S,
                "jobs": fill_queues.JOBS_EVERY_S,
                "orphans": ORPHANS_EVERY_S,
                "bucket": BUCKET_EVERY_S,
                "retention": RETENTION_EVERY_S,
                "tidy": CLEAN_STAGED_EVERY_S,
            }
        )
        if "lists" in works:
            with _go_on_after_errors("lists"):
                fill_queues.list_again(context)
        if "jobs" in works:
            with _go_on_after_errors("jobs"):
                fill_queues.requeue_all(context)
        if "orphans" in works:
            with _go_on_after_errors("orphans"):
                delete_orphans(context)
        if "bucket" in works:
            began = time.monotonic()
            with _go_on_after_errors("bucket"):
                recover_batches(context)
            with _go_on_after_errors("schedules"):
                recover_schedules(context)
            # Listing takes longer the more batches there are; the share of time spent on it stays the same.
            took_s = time.monotonic() - began
            context.ledger.locks.rest("bucket", min(took_s / BUCKET_SHARE, LONGEST_REST_S))
        if "retention" in works:
            with _go_on_after_errors("retention"):
                purge_expired(context)
        if "tidy" in works:
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
    settings = context.settings
    listed = settings.loras or settings.embeddings or settings.controlnets or settings.ip_adapters
    unseen = settings.launcher == "kubernetes" and bool(listed)
    known = context.bases.of(context.artifacts) if unseen else ListedFiles()
    deployment = Deployment.of(settings, installed_version(), known.bases, known.control_files)
    try:
        waits = {name: context.launcher.awaits([name]) for name in context.settings.models}
    except ServiceError as error:
        log.warning("who copies weights could not be seen", reason=str(error))
    else:
        deployment = deployment.model_copy(update={"awaits": {name: why for name, why in waits.items() if why}})
    context.ledger.announce(deployment)


def request_next_step(context: Context, batch_id: str) -> None:
    """Send a hint for the next task that a batch as a whole needs. Raises UnknownBatch, RecordTooNew."""
    for _, seen in context.ledger.batches.inspect([batch_id]):
        _request(context, batch_id, seen)


def _request(context: Context, batch_id: str, seen: Seen | UnknownBatch | RecordUnreadable) -> None:
    if isinstance(seen, RecordUnreadable) and not isinstance(seen, RecordTooNew):
        send_hint(context.app, RECONCILE, batch_id)  # it is written again from the bucket
        return
    if not isinstance(seen, Seen):
        raise seen
    record = seen.record
    if record.manifest.purge is not None:
        send_hint(context.app, PURGE, batch_id)
    if record.repair is not None:
        send_hint(context.app, RECONCILE, batch_id)
    if is_final(record.state):
        return
    _reprioritize(context, seen)
    if seen.parked and (back := context.ledger.leases.unpark(batch_id)):
        log.info("jobs may be claimed again", batch=batch_id, after_pause=back)
    if record.state is BatchState.PAUSED and (record.jobs is None or record.reopen is not None):
        return
    if record.jobs is None:
        send_hint(context.app, EXPAND, batch_id)
        return
    if record.reopen is not None:
        send_hint(context.app, REOPEN, batch_id)
    elif not seen.unfinished:
        send_hint(context.app, FINALIZE, batch_id)
    elif record.state is BatchState.CANCELLING:
        send_hint(context.app, CANCEL, batch_id)


def _reprioritize(context: Context, seen: Seen) -> None:
    """Give the jobs of a batch its priority, once after that has changed and while jobs are being made or opened."""
    record = seen.record
    if record.priority is None:
        return
    mark = f"{record.manifest.incarnation} {record.round} {record.priority}"
    if seen.prioritized != mark:
        all_there = record.jobs is not None and record.reopen is None
        context.ledger.jobs.reprioritize(record.id, record.priority, mark=mark if all_there else "")


def publish_hints(context: Context) -> None:
    """Have as many hints waiting as there are jobs that workers have free slots for; other jobs wait in the ledger."""
    free = sum(context.ledger.workers.forget_silent().values())
    wanted = min(free, context.ledger.leases.backlog())
    if wanted == 0:
        return
    waiting = context.ledger.workers.hints(queue_key(context.settings.redis_prefix, RENDER_QUEUE))
    for _ in range(wanted - waiting):
        if not send_hint(context.app, RENDER):
            return


def delete_orphans(context: Context) -> None:
    """Delete attempts that are not the recorded attempt of their job, or whose batch is over.

    A batch that the ledger does not know may be one that it lost, and one without jobs may be being rebuilt: their
    attempts are left alone until that has ended, with a marker in the bucket or in the ledger.
    """
    for name, seen in context.launcher.observe().items():
        if seen.batch_id is None or seen.job_index is None:
            continue
        try:
            record = context.ledger.batches.get(seen.batch_id)
            if record.jobs is None and not is_final(record.state):
                continue
            job = context.ledger.jobs.get(job_ref(seen.batch_id, seen.job_index))
        except UnknownBatch:
            if not has_ended(context.artifacts, seen.batch_id):
                continue
            job = None
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
