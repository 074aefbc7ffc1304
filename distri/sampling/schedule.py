"""Which evaluations of an image wait for the other ranks."""

from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distri.ranks.phase import Evaluation, Phase


@dataclass(frozen=True)
class Schedule:
    """Which evaluations wait for the other ranks.

    Attributes:
        warmup: how many do before displaced ones begin; None means all.
        resync: drift of the noise prediction above which one more waits; None means never. Drift is the norm of the
            change since the evaluation before, relative to the norm then. It is known when an evaluation has ended,
            while the one after has to know whether to send for its successor: so the resync comes one evaluation late,
            and on a GPU, from which the drift is read when another evaluation has been given to it, two.
    """

    warmup: int | None
    resync: float | None = None

    def resyncs(self, drift: float | None) -> bool:
        """Whether this drift calls for an evaluation that waits; one that is not a number does."""
        return self.resync is not None and drift is not None and not drift <= self.resync


class Phases:
    """The phase of each evaluation of one pass, decided as the pass goes on.

    Args:
        schedule: which evaluations wait.
        total: how many evaluations the pass has.
        split: whether ranks share the latent and keep each other's activations; else all evaluations are synchronous.
        lag: how many evaluations later the drift after one is read: 0 where it is known at once.
        waits: evaluations that wait besides, since what is asked for changes and stale activations are of another text.
    """

    def __init__(
        self, schedule: Schedule, total: int, *, split: bool, lag: int = 0, waits: Set[int] = frozenset()
    ) -> None:
        self._schedule = schedule
        self._total = total
        self._warmup = schedule.warmup if split else None
        self._waits = waits
        self._resync_at = -1
        self._lag = lag
        self._drifts: deque[Callable[[], float]] = deque()
        self._drift: float | None = None
        self._before: Tensor | None = None

    def evaluation(self, index: int) -> Evaluation:
        """What evaluation `index` does, unless the leader asks for a resync after it."""
        return phase_of(index, self._total, self._warmup, {*self._waits, self._resync_at})

    def wants_resync(self, evaluation: Evaluation) -> bool:
        """Whether the drift so far calls for a synchronous evaluation after this one, which would not be one."""
        return evaluation.publish and self._schedule.resyncs(self._drift)

    def resync_after(self, index: int) -> Evaluation:
        """Make the evaluation after `index` synchronous; what `index` itself does then, which need not publish."""
        evaluation = self.evaluation(index)
        self._resync_at = index + 1
        return Evaluation(evaluation.phase, publish=False)

    def note(self, prediction_BCHW: Tensor) -> None:
        """Measure the drift of the whole noise prediction, where a resync depends on it."""
        if self._schedule.resync is None:
            return
        before, self._before = self._before, prediction_BCHW
        if before is not None:
            self._drifts.append(_read_later((prediction_BCHW - before).norm() / before.norm()))
        if len(self._drifts) > self._lag:
            self._drift = self._drifts.popleft()()


def _read_later(number: Tensor) -> Callable[[], float]:
    """What reads a number; from a GPU it is on its way at once, so that whoever reads it waits for it alone."""
    if number.device.type != "cuda":
        return number.item
    on_host = torch.empty((), dtype=number.dtype, pin_memory=True)
    on_host.copy_(number, non_blocking=True)
    arrived: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    arrived.record()

    def read() -> float:
        arrived.synchronize()
        return float(on_host)

    return read


def phase_of(index: int, total: int, warmup: int | None, waits: Set[int] = frozenset()) -> Evaluation:
    """Phase of evaluation `index` of `total` when the first `warmup` ones wait (None: all of them), and `waits`.

    The first evaluation always waits, since nothing stale exists before it.
    """

    def displaced(at: int) -> bool:
        return warmup is not None and at >= max(1, warmup) and at not in waits

    phase = Phase.DISPLACED if displaced(index) else Phase.SYNCHRONOUS
    return Evaluation(phase, publish=index + 1 < total and displaced(index + 1))
