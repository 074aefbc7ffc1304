"""Each firing is one batch: killed before any of its requests, done by several at once, with two beats and kills."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import botocore.httpsession
import pytest
import redis.connection

from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger
from pipeline.ledger.locks import Locks
from pipeline.records.schedules.schedule import changed
from tasks.control.fire import fire
from tasks.worker import build_context
from tests.tasks.control.test_schedules import batches, history, hours_ago, schedule
from tests.tasks.stage import Stage

FORK = multiprocessing.get_context("fork")


def _fire_and_die(settings: Settings, last: int) -> None:
    """Fire in this process, which is killed when it is about to send request number `last` to Redis or S3."""
    sent = 0

    def counted(real: Any) -> Any:
        def send(*args: Any, **kwargs: Any) -> Any:
            nonlocal sent
            sent += 1
            if sent > last:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return send

    context = build_context(settings, "control")
    session, connection = botocore.httpsession.URLLib3Session, redis.connection.AbstractConnection
    session.send = counted(session.send)  # type: ignore[method-assign]
    connection.send_packed_command = counted(connection.send_packed_command)  # type: ignore[method-assign]
    fire(context, "nightly")


@contextmanager
def _no_lock(*_: Any) -> Iterator[bool]:
    yield True


def _fire_without_lock(settings: Settings, barrier: Any) -> None:
    """Fire as one that believes to hold the lock that it has lost."""
    Locks.only_one = _no_lock  # type: ignore[method-assign,assignment]
    context = build_context(settings, "control")
    barrier.wait(60)
    fire(context, "nightly")


def _one_is_due(stage: Stage, due: datetime) -> datetime:
    """Let the schedule fire at this hour of this day of the year alone, which is over, while the last batch runs."""
    record = stage.ledger.schedules.get("nightly")
    assert record is not None
    after = changed(
        record,
        at=stage.ledger.now(),
        spec=record.spec.model_copy(update={"cron": f"{due.minute} {due.hour} {due.day} {due.month} *"}),
        cursor=due - timedelta(hours=1),
        open=record.open[-1:],
    )
    assert after.next_at == due
    stage.ledger.schedules.write(after)
    return due


def _unlock(stage: Stage) -> None:
    """The lock of a killed process has run out."""
    stage.ledger.store.redis.delete(stage.ledger.store.keys.lock("schedule-nightly"))


def test_a_process_killed_before_any_of_its_requests_leaves_one_batch_after_the_next_tick(stage: Stage) -> None:
    """With everything that a firing can do: one before it is replaced, and rows that are not new are left out."""
    schedule(stage, only_new=True, overlap="replace")
    fire(stage.worker, "nightly")
    fired = history(stage)
    for survived in range(200):
        before = set(batches(stage))
        due = _one_is_due(stage, hours_ago(stage, 1 + survived))
        child = FORK.Process(target=_fire_and_die, args=(stage.settings, survived))
        child.start()
        child.join()
        _unlock(stage)
        fire(stage.worker, "nightly")
        new = set(batches(stage)) - before
        mine = [firing for firing in history(stage) if firing not in fired]
        fired = history(stage)
        assert [firing.fire_at for firing in mine] == [due], survived
        # every row of the batch before was cancelled before it was rendered, so each firing renders all three again
        assert ([firing.id for firing in mine], mine[0].outcome, mine[0].rows) == ([*new], "submitted", 3), survived
        assert stage.ledger.batches.get(mine[0].id).manifest.rows == 3, survived
        open_batches = stage.ledger.schedules.get("nightly")
        assert open_batches is not None
        assert open_batches.open[-1] == mine[0].id
        if child.exitcode == 0:
            assert survived > 20, "the count of requests is no longer one of all"
            return
        assert child.exitcode == -signal.SIGKILL
    pytest.fail("a firing makes more than 200 requests")


def test_several_that_fire_at_once_without_a_lock_make_one_batch_and_one_line_of_history(stage: Stage) -> None:
    schedule(stage, hours=2, catch_up=True, overlap="allow")
    barrier = FORK.Barrier(4)
    children = [FORK.Process(target=_fire_without_lock, args=(stage.settings, barrier)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    fired = [firing.id for firing in history(stage)]
    assert len(fired) == len(set(fired)) >= 3
    assert sorted(fired) == batches(stage)
    assert all(firing.outcome == "submitted" for firing in history(stage))


@pytest.fixture
def processes(stage: Stage) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Two beats and two controllers, real ones."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    for name in ("beat 1", "beat 2", "control 1", "control 2"):
        running[name] = _started(stage, name)
    yield running
    for process in running.values():
        process.kill()
        process.wait()


def _started(stage: Stage, name: str) -> subprocess.Popen[bytes]:
    environment = os.environ | stage.settings.environment() | {"TESSERA_LOG_LEVEL": "error"}
    return subprocess.Popen([sys.executable, "-P", "-m", "tasks.worker", name.split(maxsplit=1)[0]], env=environment)


def test_two_beats_and_kills_at_any_instant_make_each_firing_once(
    stage: Stage, processes: dict[str, subprocess.Popen[bytes]]
) -> None:
    """Twelve firings are due; whoever has just fired is killed and started again until all are seen to."""
    chance = random.Random(7)
    schedule(stage, hours=11, catch_up=True, overlap="allow")
    killed, seen, deadline = 0, 0, time.monotonic() + 500
    while len(history(stage)) < 12:
        if len(batches(stage)) > seen:
            seen = len(batches(stage))
            time.sleep(chance.random() / 10)
            if killed < 4:
                for name in ("beat 1", "control 1") if killed % 2 == 0 else ("beat 2", "control 2"):
                    processes[name].kill()
                    processes[name].wait()
                    processes[name] = _started(stage, name)
                killed += 1
        assert time.monotonic() < deadline, f"{len(history(stage))} firings seen to"
        time.sleep(0.02)
    assert killed >= 1
    fired = [firing.id for firing in history(stage)]
    assert len(fired) == len(set(fired))
    assert {firing.outcome for firing in history(stage)} == {"submitted"}
    assert batches(stage) == sorted(fired)
    times = [firing.fire_at for firing in history(stage)]
    assert times == [times[0] + timedelta(hours=i) for i in range(len(times))]
    ledger = Ledger(stage.settings)
    assert sorted(ledger.batches.newest(50)) == sorted(fired)
    complete_one = fired[0]
    assert ledger.batches.get(complete_one).manifest.images == 3
