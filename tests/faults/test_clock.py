"""Clocks that are wrong and clocks that jump, by libfaketime; intervals are measured with the monotonic clock."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from embedded.processes.child import Child
from pipeline.states import BatchState
from tests.faults.conftest import Started
from tests.faults.deployment import Deployment, until
from tests.faults.invariants import ends_well
from tests.faults.recovery import Recoveries

pytestmark = [
    pytest.mark.slow_fault,
    pytest.mark.skipif(sys.platform != "linux", reason="libfaketime is preloaded as Linux does it"),
]

MINUTE, HOUR, DAY = 60, 3600, 86400


def _library() -> Path:
    """The shared object that PyPI's libfaketime carries."""
    found = find_spec("libfaketime")
    if found is None or found.origin is None:
        pytest.skip("libfaketime is not installed")
    return Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


class Clock:
    """An offset that one process reads anew each time that it asks for the time."""

    def __init__(self, file: Path, offset_s: int = 0) -> None:
        self._file = file
        self.set(offset_s)

    def set(self, offset_s: int) -> None:
        whole = self._file.with_suffix(".new")
        whole.write_text(f"{offset_s:+d}s")
        whole.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture
def clocked(tmp_path: Path, started: Started) -> Callable[..., tuple[Deployment, dict[str, Clock]]]:
    """A deployment whose parts have clocks of their own."""

    def start(**offsets_s: int) -> tuple[Deployment, dict[str, Clock]]:
        deployment = started("node", "control")
        clocks = {part: Clock(tmp_path / f"{part}.clock", offset) for part, offset in offsets_s.items()}
        deployment.kill("control")
        for part, clock in clocks.items():
            deployment.start(part, **clock.environment)
        until("the worker is there", deployment.ledger.workers.free_slots)
        return deployment, clocks

    return start


@pytest.mark.parametrize("minutes", [10, -10])
def test_a_clock_that_is_wrong_and_then_jumps_costs_nothing(
    clocked: Callable[..., tuple[Deployment, dict[str, Clock]]], recoveries: Recoveries, minutes: int
) -> None:
    """Every process is wrong by something else, within what S3 accepts of a signature."""
    wrong = minutes * MINUTE
    deployment, clocks = clocked(render=wrong, control=-wrong, beat=wrong)
    batch = deployment.rendering(6)
    jumped = time.monotonic()
    for part, offset in (("render", -wrong), ("control", wrong), ("beat", -wrong)):
        clocks[part].set(offset)
    later = deployment.submit(2)
    recoveries.after(
        f"clocks of worker, controller and beat jump by {2 * abs(minutes)} minutes in mid-render "
        f"({'back, forward, back' if minutes > 0 else 'forward, back, forward'})",
        "a batch submitted at that moment is expanded",
        lambda: later.status().state is not BatchState.VALIDATING,
        jumped,
    )
    for each in (batch, later):
        ends_well(deployment, each)
        assert set(deployment.attempts(each)) == {1}


def test_a_clock_that_is_wrong_by_a_day_is_an_outage_until_it_is_set_right(
    clocked: Callable[..., tuple[Deployment, dict[str, Clock]]],
) -> None:
    deployment, clocks = clocked(render=0, control=0, beat=0)
    batch = deployment.rendering(3)
    for clock in clocks.values():
        clock.set(DAY)
    time.sleep(20)
    for clock in clocks.values():
        clock.set(0)
    ends_well(deployment, batch)
    assert set(deployment.attempts(batch)) == {1}


def _has_ended(child: Child) -> bool:
    return child.exit_code() is not None


@contextmanager
def _redis_on(deployment: Deployment, clock: Clock) -> Iterator[None]:
    """The Redis of all deployments here, on a clock of its own."""
    services = deployment.services
    plain = services.redis
    program = plain.program
    faked = Child(dataclasses.replace(program, environment={**program.environment, **clock.environment}))
    for old, new in ((plain, faked), (faked, plain)):
        old.send(signal.SIGKILL)
        until("Redis is gone", partial(_has_ended, old))
        new.start()
        object.__setattr__(services, "redis", new)
        if new is faked:
            try:
                yield
            finally:
                clock.set(0)


@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_of_redis_jumps(tmp_path: Path, deployment: Deployment, recoveries: Recoveries, hours: int) -> None:
    """Leases end by it: forward, all at once, and whoever claims adopts; back, the living renew theirs."""
    clock = Clock(tmp_path / "redis.clock")
    with _redis_on(deployment, clock):
        batch = deployment.rendering(6)
        jumped = time.monotonic()
        clock.set(hours * HOUR)
        later = deployment.submit(2)
        recoveries.after(
            f"the clock of Redis jumps by {hours:+d} hour in mid-render",
            "a batch submitted at that moment is expanded",
            lambda: later.status().state is not BatchState.VALIDATING,
            jumped,
        )
        for each in (batch, later):
            ends_well(deployment, each)
            assert set(deployment.attempts(each)) == {1}
