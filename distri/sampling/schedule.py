"""Which evaluations of an image wait for the other ranks."""

from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distri.ranks.phase import EXACT, Evaluation, Phase


@dataclass(frozen=True)
class Schedule:
    """Which evaluations wait for the other ranks.

    Attributes:
        warmup: how many do before displaced ones begin; None means all.
        settling: how many of a pass displace keys and values at most, the warm-up among them; all else waits.
        resync: drift of the noise prediction above which one more waits; None means never. Drift is the norm of the
            change since the evaluation before, relative to the norm then. It is known when an evaluation has ended,
            while the one after has to know whether to send for its successor: so the resync comes one evaluation late,
            and on a GPU, from which the drift is read when another evaluation has been given to it, two.
    """

    warmup: int | None
    resync: float | None = None
    settling: int = 0

    def resyncs(self, drift: float | None) -> bool:
        """Whether this drift calls for an evaluation that waits; one that is not a number does."""
        return self.resync is not None and drift is not None and not drift <= self.resync


@dataclass(frozen=True)
class Place:
    """Where one image stands in its pass.

    Attributes:
        index: of the evaluation that is about to begin, from 0.
        total: how many evaluations the pass has.
        waits: evaluations that wait besides, since what is asked for changes and stale activations are of another text.
    """

    index: int
    total: int
    waits: Set[int] = frozenset()


class Phases:
    """The phase of each evaluation of images that are evaluated together, decided as they go on.

    Args:
        schedule: which evaluations wait.
        lag: how many evaluations later the drift after one is read: 0 where it is known at once.
    """

    def __init__(self, schedule: Schedule, *, lag: int = 0) -> None:
        self._schedule, self._lag = schedule, lag
        self._resync = False
        self._drifts: deque[Callable[[], float]] = deque()
        self._drift: float | None = None
        self._before: Tensor | None = None

    def evaluation(self, places: Sequence[Place], *, split: bool, anew: bool) -> Evaluation:
        """What the next evaluation does, unless the leader asks for a resync after it.

        Args:
            places: of the images that it evaluates.
            split: whether ranks share the latents and keep each other's activations; else it is synchronous.
            anew: whether it evaluates other rows than the one before, so that nothing stale is there.
        """
        schedule = self._schedule if split else Schedule(None)
        if anew:
            self._drifts.clear()
            self._drift = self._before = None
        waits, self._resync = anew or self._resync, False
        return phase_of(places, schedule, waits=waits)

    def wants_resync(self, evaluation: Evaluation) -> bool:
        """Whether the drift so far calls for a synchronous evaluation after this one, which would not be one."""
        return evaluation.publish and self._schedule.resyncs(self._drift)

    def resync_after(self, evaluation: Evaluation) -> Evaluation:
        """Make the evaluation after this one synchronous; what this one does then, which need not publish."""
        self._resync = True
        return evaluation.last()

    def note(self, prediction_BCHW: Tensor) -> None:
        """Measure the drift of each image's whole noise prediction, where a resync depends on the largest."""
        if self._schedule.resync is None:
            return
        before, self._before = self._before, prediction_BCHW
        if before is not None:
            change, norm = (one.flatten(1).norm(dim=1) for one in (prediction_BCHW - before, before))
            self._drifts.append(_read_later((change / norm).max()))
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


def phase_of(places: Sequence[Place], schedule: Schedule, *, waits: bool = False) -> Evaluation:
    """Phase of an evaluation of several images; it is displaced only if it may be for each of them.

    The first evaluations of an image wait, at least one, since nothing stale exists before it; so all wait with an
    image that has just come.

    Args:
        places: of the images.
        schedule: of each of them.
        waits: whether this one waits whatever they say.
    """
    warmup = schedule.warmup

    def displaced(place: Place, index: int, first: int) -> bool:
        return index >= max(1, first) and index not in place.waits

    def late_from(first: int) -> Evaluation:
        """As seen by layers that are displaced from this evaluation of an image on."""
        now = not waits and all(displaced(place, place.index, first) for place in places)
        later = all(place.index + 1 < place.total and displaced(place, place.index + 1, first) for place in places)
        return Evaluation(Phase.DISPLACED if now else Phase.SYNCHRONOUS, publish=later)

    if warmup is None:
        return EXACT
    whole, rest = late_from(warmup), late_from(max(warmup, schedule.settling))
    return whole if rest == whole else replace(whole, rest=rest)
