"""Waiting for what happens in other processes, always with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


class Patience:
    """Polls of a condition."""

    def until(self, condition: Callable[[], T], timeout_s: float = 300.0, what: str = "the condition") -> T:
        """The first true value that `condition` returns."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not come true in {timeout_s} s; last value {value!r}")
            time.sleep(0.02)
        return value

    def number_in(self, path: Path) -> int:
        """The number that another process writes into `path`."""
        return int(self.until(lambda: path.exists() and path.read_text().strip(), what=f"a number in {path.name}"))

    def gone(self, *pids: int) -> None:
        """Return when none of the processes lives."""
        self.until(lambda: not any(alive(pid) for pid in pids), what=f"the end of {pids}")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


@pytest.fixture
def patience() -> Patience:
    return Patience()


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive
