"""Celery tasks: each name of `pipeline.deployment.broker` with the function that does it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from functools import partial, wraps

import structlog
from celery import Celery

from pipeline.deployment.broker import (
    CANCEL,
    EXPAND,
    FINALIZE,
    FIRE,
    PURGE,
    RECONCILE,
    RENDER,
    REOPEN,
    TICK,
    VERIFY_LEDGER,
)
from pipeline.errors import ConflictError, LedgerInDoubt, RecordUnreadable, ServiceError, UnknownBatch
from tasks.control.batch_wait import note_wait
from tasks.control.cancel import cancel
from tasks.control.expand import expand
from tasks.control.finalize import finalize
from tasks.control.fire import fire
from tasks.control.internal_errors import meet
from tasks.control.purge import purge
from tasks.control.reconcile import reconcile
from tasks.control.reopen import reopen
from tasks.control.tick import publish_hints, tick_if_due
from tasks.control.verify_ledger import verify_ledger
from tasks.jobs.mend_job import mend_claimed_job
from tasks.jobs.run_job import run_job
from tasks.process.context import Context

log = structlog.get_logger(__name__)

# Steps of a batch as a whole: what puts one off is shown in the batch's status.
_STEPS = frozenset({EXPAND, REOPEN, CANCEL, FINALIZE, PURGE})


# How long workers wait for a ledger in doubt. What they claim then may be under way elsewhere, which costs an attempt.
DOUBT_S, DOUBT_LOOK_S = 120.0, 0.5


def _wait_for_verification(context: Context) -> None:
    """Wait while the ledger is compared with the bucket, for jobs in it may have attempts that it has forgotten."""
    until = time.monotonic() + DOUBT_S
    while context.ledger.generations.is_in_doubt(new=False) and time.monotonic() < until:
        if context.stopping.wait(DOUBT_LOOK_S):
            return


def render(context: Context) -> None:
    """Claim the best job there is and run it, then the next, until there is none."""
    worked, waited = False, False
    while not context.stopping.is_set():
        try:
            lease = context.ledger.leases.claim(
                context.worker, context.settings.lease_s, mend=partial(mend_claimed_job, context), sure=not waited
            )
        except LedgerInDoubt:
            _wait_for_verification(context)
            waited = True
            continue
        if lease is None:
            break
        worked, waited = True, False
        with context.slots.take():
            run_job(context, lease)
    if worked:
        context.slots.freed.set()


def _with_hints(action: Callable[[Context, str], None]) -> Callable[[Context, str], None]:
    """The action, followed by hints for the jobs that it queued, so that they need not wait for the next tick."""

    @wraps(action)
    def run(context: Context, batch_id: str) -> None:
        action(context, batch_id)
        publish_hints(context)

    return run


def _when_sure(action: Callable[[Context, str], None]) -> Callable[[Context, str], None]:
    """The action, put off while Redis may be an older ledger than the one that it was asked for by."""

    @wraps(action)
    def run(context: Context, one: str) -> None:
        if context.ledger.generations.is_in_doubt():
            log.info("put off until the ledger has been compared with the bucket", of=one, what=action.__name__)
            return
        action(context, one)

    return run


def register(app: Celery, context: Context) -> None:
    """Register the tasks, bound to the context of this process."""
    actions: dict[str, Callable[..., object]] = {
        EXPAND: _with_hints(_when_sure(expand)),
        REOPEN: _with_hints(_when_sure(reopen)),
        CANCEL: _when_sure(cancel),
        FINALIZE: _when_sure(finalize),
        PURGE: _when_sure(purge),
        RECONCILE: reconcile,
        TICK: tick_if_due,
        FIRE: _when_sure(fire),
        VERIFY_LEDGER: verify_ledger,
        RENDER: render,
    }
    for name, action in actions.items():
        # A shared task would be added, bound to this context, to every application that this process makes later.
        app.task(name=name, shared=False)(_bind(context, name, action))


def _bind(context: Context, name: str, action: Callable[..., object]) -> Callable[..., None]:
    wanted = len(inspect.signature(action).parameters) - 1

    def run(*args: str, **_newer: object) -> None:
        # A newer version may send more arguments with a hint; what they say is in the ledger too.
        of_a_batch = name in _STEPS and len(args) > 0
        try:
            action(context, *args[:wanted])
            if of_a_batch:
                note_wait(context, args[0], None)
        except (ConflictError, UnknownBatch) as error:
            log.info("already done by another worker", task=name, reason=str(error))
        except RecordUnreadable as error:
            log.error("a stored record cannot be read", task=name, reason=str(error))
            if of_a_batch:
                note_wait(context, args[0], str(error))
        except ServiceError as error:
            log.warning("task put off until an outage ends", task=name, reason=str(error))
            if of_a_batch:
                note_wait(context, args[0], str(error))
        except Exception as error:  # whatever it is, its batch says so, and does not meet it for ever
            if not of_a_batch:
                raise
            log.exception("internal error in a step of a batch", task=name, batch=args[0])
            meet(context, name, args[0], error)

    return run
