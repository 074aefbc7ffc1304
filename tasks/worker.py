"""Entry point of the worker processes: `python -P -m tasks.worker render|control|beat`.

`render` runs jobs, one thread for each pod. `control` expands and finalizes batches and ticks; it has a queue of its
own, so that it never waits behind renders. `beat` sends the tick. Settings: the environment (docs/settings.md).
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis
import structlog
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from kombu.exceptions import OperationalError

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.broker import HINT_LASTS_S, TICK, beat_options, celery_app
from pipeline.deployment.broker_keys import CONTROL_QUEUE, RENDER_QUEUE, beat_prefix, queue_name
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import LedgerUnavailable, ServiceError, TesseraError
from pipeline.ledger import Ledger
from pipeline.ledger.server.durability import check_durability
from pipeline.ledger.workers import Drain
from pipeline.operations.declared import declared_schedules
from pipeline.process.backoff import CAP_S, backoff_s
from pipeline.process.logs import configure_logging
from pipeline.process.redact import redacted
from pipeline.records.attempt import Launcher
from pipeline.records.schedules.schedule import ScheduleSpec
from pipeline.version import installed_version
from tasks.app import register
from tasks.control.generation import check_ledger
from tasks.control.schedules import declare_schedules
from tasks.control.send_webhooks import follow_webhooks
from tasks.control.tick import announce, tick_if_due
from tasks.control.wake import follow_wakes
from tasks.process.context import Context, Slots
from tasks.process.incoming import Incoming
from tasks.process.metrics import LedgerMetrics
from tasks.process.observer import Observer
from tasks.process.pulse import Pulse, consumer, scheduler
from tasks.process.transport import take_hints_only

log = structlog.get_logger(__name__)

CONTROL_THREADS = 4
REPORT_S = 2.0
# A controller ticks by itself once in as many of beat's ticks.
SELDOM_TICKS = 5
# After an outage of Redis beat begins anew, soon at first; one that has run for so long starts afresh.
BEAT_PAUSE_S, BEAT_RECOVERED_S = 0.5, 60.0
# How many loop intervals pass after a beat was killed, before another takes its lock.
BEAT_LOCK_INTERVALS = 5


def launcher_for(settings: Settings) -> Launcher:
    """The launcher that the settings name."""
    if settings.launcher == "local":
        from embedded.launcher import LocalLauncher

        return LocalLauncher(settings.data_dir)
    from k8s.launcher import KubernetesLauncher

    return KubernetesLauncher.connect(settings)


def build_context(settings: Settings, role: str) -> Context:
    """The context of one worker process."""
    launcher = launcher_for(settings)
    return Context(
        settings=settings,
        ledger=Ledger(settings),
        artifacts=Artifacts(settings),
        launcher=launcher,
        observer=Observer(launcher, settings.observe_s),
        app=celery_app(settings),
        worker=f"{role}@{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}",
        slots=Slots(settings.worker_slots),
        stopping=threading.Event(),
    )


def work(context: Context, role: str, pulse: Pulse) -> None:
    """Run a Celery worker until it is told to stop."""
    threads = context.settings.worker_slots if role == "render" else CONTROL_THREADS
    queue = queue_name(context.settings.redis_prefix, RENDER_QUEUE if role == "render" else CONTROL_QUEUE)
    take_hints_only(context.app, Incoming(context.ledger.dead_letters, context.metrics))
    register(context.app, context)
    context.app.conf.worker_consumer = consumer(pulse)
    if context.settings.metrics_port is not None:
        if role == "control":
            context.metrics.registry.register(LedgerMetrics(context.ledger))
        context.metrics.serve(context.settings.metrics_port)
    connected = _connect_signals(context, role, declared_schedules(context.settings))
    context.app.worker_main(
        [
            "--quiet",  # no banner between lines of JSON
            "worker",
            "--pool=threads",
            f"--concurrency={threads}",
            f"--queues={queue}",
            f"--hostname={context.worker}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )
    del connected  # Celery holds signal handlers weakly


def beat(settings: Settings, pulse: Pulse) -> None:
    """Run RedBeat, which only sends ticks; a lock in Redis lets one of several beats do it."""
    app = celery_app(settings)
    interval_s = min(5.0, settings.tick_s)
    app.conf.update(
        beat_scheduler=scheduler(pulse),
        **beat_options(settings),
        redbeat_key_prefix=beat_prefix(settings.redis_prefix),
        redbeat_lock_timeout=math.ceil(BEAT_LOCK_INTERVALS * interval_s),
        beat_max_loop_interval=interval_s,
        beat_schedule={"tick": {"task": TICK, "schedule": settings.tick_s, "options": {"expires": HINT_LASTS_S}}},
    )
    failures, began = 0, time.monotonic()
    while True:
        try:
            app.Beat(quiet=True).run()
        except (redis.RedisError, OperationalError) as error:
            failures = 0 if time.monotonic() - began > BEAT_RECOVERED_S else failures + 1
            pause_s = backoff_s(failures + 1, first_s=BEAT_PAUSE_S, longest_s=interval_s)
            log.warning("waiting for Redis", reason=redacted(str(error)), pause_s=round(pause_s, 1))
            pulse.beat(ready=False)
            time.sleep(pause_s)
            began = time.monotonic()
        else:
            return


def _keep_our_logging(**_: Any) -> None:
    """With a receiver Celery does not configure the root logger, and so does not log past our redaction."""


setup_logging.connect(_keep_our_logging)


def _connect_signals(context: Context, role: str, specs: Mapping[str, ScheduleSpec]) -> list[Any]:
    def ready(**_: Any) -> None:
        log.info("worker ready", role=role, worker=context.worker)
        if role == "control":
            _begin_ledger(context)
            announce(context)
            threading.Thread(target=declare_schedules, args=(context, specs), name="declare", daemon=True).start()
        for beside in (_tick_without_beat, follow_wakes, follow_webhooks) if role == "control" else (_report,):
            threading.Thread(target=beside, args=(context,), name=beside.__name__, daemon=True).start()

    def shutting_down(**_: Any) -> None:
        # With the threads pool this runs in the process that holds the jobs: each thread hands its job over.
        context.stopping.set()
        context.slots.freed.set()
        log.info("worker stopping", role=role, worker=context.worker)

    worker_ready.connect(ready)
    worker_shutting_down.connect(shutting_down)
    return [ready, shutting_down]


def _begin_ledger(context: Context) -> None:
    """Give a ledger that has none its generation, so that batches of the first second need not wait for a tick."""
    try:
        if context.ledger.generations.read() is None:
            check_ledger(context)
    except ServiceError as error:
        log.warning("the ledger begins with the next tick", reason=str(error))


def _report(context: Context) -> None:
    while True:
        context.slots.freed.clear()  # before the report, so that a slot that becomes free during it ends the wait below
        if context.stopping.is_set():
            break
        try:
            context.ledger.workers.report(context.worker, context.slots.free)
            if context.ledger.workers.drained(context.worker) is Drain.HAND_OVER:
                context.handing_over.set()
            else:
                context.handing_over.clear()
        except ServiceError as error:
            log.warning("free slots could not be reported", reason=str(error))
        context.slots.freed.wait(REPORT_S)
    try:
        context.ledger.workers.leave(context.worker)
    except ServiceError as error:
        log.warning("worker could not sign off", reason=str(error))


def _tick_without_beat(context: Context) -> None:
    """Tick rarely, by the monotonic clock: RedBeat stops for as long as its host's clock was set back."""
    while not context.stopping.wait(min(SELDOM_TICKS * context.settings.tick_s, CAP_S)):
        try:
            tick_if_due(context)
        except ServiceError as error:
            log.warning("tick failed", reason=str(error))


def _warn_of_requirements(context: Context) -> None:
    """Log what the store lacks. What makes work impossible was refused by `check` before."""
    try:
        for requirement in context.artifacts.requirements():
            if not requirement.met:
                log.warning(
                    "the store lacks what Tessera relies on (docs/operations.md)",
                    requirement=requirement.name,
                    found=requirement.found,
                    wanted=requirement.wanted,
                    do=requirement.do,
                )
    except ServiceError as error:
        log.warning("the store could not be examined", reason=str(error))


def main(argv: list[str] | None = None) -> int:
    """Run one role until told to stop."""
    parser = argparse.ArgumentParser(
        prog="python -P -m tasks.worker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("role", choices=["render", "control", "beat"], help="what this process does")
    parser.add_argument("--pulse", type=Path, metavar="FOLDER", help="keep ROLE.alive and ROLE.ready fresh there")
    asked = parser.parse_args(argv)
    role: str = asked.role
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.log_level)
        for chatty in ("celery.worker.strategy", "celery.app.trace"):  # two lines for each tick, which nobody needs
            logging.getLogger(chatty).setLevel(logging.WARNING)
        log.info("worker starting", role=role, version=installed_version(), redis=Ledger(settings).store.where)
        try:
            check_durability(Ledger(settings).store, refuse=settings.redis_durability == "refuse")
        except LedgerUnavailable as error:
            log.warning("waiting for Redis", reason=str(error))
        if role == "beat":
            beat(settings, Pulse(asked.pulse, role))
        else:
            context = build_context(settings, role)
            context.artifacts.check()
            _warn_of_requirements(context)
            work(context, role, Pulse(asked.pulse, role))
    except TesseraError as error:
        print(f"{role}: {error}", file=sys.stderr)  # noqa: T201 - logging may not be set up yet
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
