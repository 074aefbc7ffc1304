"""How far one rank has come: what its device has finished, what it waits for, and how long it stood still for messages.

On a CPU a wait is over when it returns. On CUDA waiting for a message only makes the stream wait, and returns at once.
So every wait and every end of an evaluation leaves marks in the stream (CUDA events), and the device is asked which of
them it has passed. Any thread can ask, and so tell a device that waits for others from one that hangs in its own work.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

MOST_WAITS = 2048  # about five synchronous evaluations of SDXL; a host that is so far ahead waits for its device
EVALUATIONS_AHEAD = 2  # of the device: enough that it never runs dry, few enough that STOP is heard soon


class Mark(Protocol):
    """A point in a device's work, as a `torch.cuda.Event` with timing is."""

    def record(self) -> None:
        """Put it behind what the device was given until now."""

    def query(self) -> bool:
        """Whether the device has passed it. Any thread may ask, and it blocks nobody."""

    def synchronize(self) -> None:
        """Block until the device has passed it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this mark to a later one, both passed."""


@dataclass(frozen=True)
class Standing:
    """How far a rank is.

    Attributes:
        evaluations: that its device has ended.
        steps: waits and evaluations that are over; it only counts that they become more.
        what: it waits for, or works at.
        waits: whether it waits for other ranks.
        device: whether that is its device, which has work left; else its program.
        in_evaluation: whether its program is within an evaluation on a GPU, which takes no program minutes.
    """

    evaluations: int = 0
    steps: int = 0
    what: str = "its start"
    waits: bool = False
    device: bool = False
    in_evaluation: bool = False


@dataclass(frozen=True)
class _Outstanding:
    """Something that the device has yet to pass; a wait if it has a mark `before`, else the end of an evaluation."""

    mark: Mark
    what: str
    before: Mark | None = None


class Progress:
    """What the rank's own thread notes and any other may read.

    Args:
        make_mark: for marks in the device's work; None where a call returns when its work is done, as on a CPU.
    """

    def __init__(self, make_mark: Callable[[], Mark] | None = None) -> None:
        self._make_mark = make_mark
        self._lock = threading.Lock()
        self._outstanding: deque[_Outstanding] = deque()
        self._spare: list[Mark] = []
        self._ends: deque[Mark] = deque()  # of the last evaluations
        self._evaluations = self._steps = 0
        self._stalled_s = 0.0
        self._what, self._waits, self._in_evaluation = Standing.what, False, False

    @classmethod
    def of(cls, device: torch.device) -> "Progress":
        """Of a rank that computes on this device."""
        event: Any = torch.cuda.Event
        return cls(lambda: event(enable_timing=True, blocking=True)) if device.type == "cuda" else cls()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Within the block this rank waits for messages of other ranks: its thread on gloo, its stream on NCCL."""
        if self._make_mark is None:  # some hundred times an evaluation: one context manager, not two
            began, work = time.perf_counter(), self._what
            self._what, self._waits = what, True
            try:
                yield
            finally:
                self._what, self._waits = work, False
                self._steps += 1
            self._stalled_s += time.perf_counter() - began
            return
        before = self._mark()
        with self.waiting_on_host(what):
            yield
        after = self._mark()
        with self._lock:
            self._outstanding.append(_Outstanding(after, what, before))
        if len(self._outstanding) > MOST_WAITS:
            self._outstanding[0].mark.synchronize()
            self.stalled_s()

    @contextmanager
    def waiting_on_host(self, what: str) -> Iterator[None]:
        """Within the block the rank's thread waits for other ranks, whatever its device does."""
        work, self._what, self._waits = self._what, what, True
        try:
            yield
        finally:
            self._what, self._waits = work, False
            with self._lock:
                self._steps += 1

    @contextmanager
    def evaluation(self, what: str) -> Iterator[None]:
        """The block is an evaluation. Blocks at its end while the device is EVALUATIONS_AHEAD behind."""
        self._what, self._in_evaluation = what, self._make_mark is not None
        try:
            yield
        finally:
            self._in_evaluation = False
        self._what = f"what follows {what}"
        if self._make_mark is None:
            self._evaluations += 1
            self._steps += 1
            return
        end = self._make_mark()
        end.record()
        with self._lock:
            self._outstanding.append(_Outstanding(end, what))
            self._fold()
        self._ends.append(end)
        if len(self._ends) > EVALUATIONS_AHEAD:
            self._ends.popleft().synchronize()

    def standing(self) -> Standing:
        """How far this rank is now."""
        with self._lock:
            self._fold()
            first = self._outstanding[0] if self._outstanding else None
            what, waits = self._what, self._waits
            if first is not None:
                what, waits = first.what, first.before is not None and first.before.query()
            return Standing(self._evaluations, self._steps, what, waits, first is not None, self._in_evaluation)

    def stalled_s(self) -> float:
        """Seconds of exposed communication that the device has passed: all of them, once it is synchronised."""
        with self._lock:
            self._fold()
            return self._stalled_s

    def forget_stalls(self) -> None:
        """Count them anew, for another job of this process; what the device was given must have ended."""
        with self._lock:
            self._fold()
            self._stalled_s = 0.0

    def _mark(self) -> Mark:
        if self._make_mark is None:
            raise AssertionError("a device without marks")
        mark = self._spare.pop() if self._spare else self._make_mark()
        mark.record()
        return mark

    def _fold(self) -> None:
        """Count what the device has passed; the marks of waits are used again. Holds the lock."""
        while self._outstanding and self._outstanding[0].mark.query():
            passed = self._outstanding.popleft()
            self._steps += 1
            if passed.before is None:
                self._evaluations += 1
            else:
                self._stalled_s += passed.before.elapsed_time(passed.mark) / 1000
                self._spare += [passed.before, passed.mark]
