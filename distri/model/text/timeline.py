"""What holds for some steps of a pass, and something else after them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Timeline(Generic[T]):
    """What holds at which step of a pass.

    Attributes:
        periods: each with the first step that it does not hold for any more; None, in the last one alone, for the end.
    """

    periods: tuple[tuple[int | None, T], ...]

    @classmethod
    def always(cls, value: T) -> "Timeline[T]":
        """One that does not change."""
        return cls(((None, value),))

    def at(self, step: int) -> T:
        """What holds at a step, counted from 0."""
        return next(value for until, value in self.periods if until is None or step < until)

    def after(self, steps: int) -> "Timeline[T]":
        """What holds once so many steps are behind, counted from there."""
        later = (pair for pair in self.periods if pair[0] is None or pair[0] > steps)
        return Timeline(tuple((None if until is None else until - steps, value) for until, value in later))

    def spread_over(self, share: float) -> "Timeline[T]":
        """The same for a pass of this share of the steps: what holds at some time there begins with its own step."""
        return Timeline(
            tuple((None if until is None else math.ceil(until * share), value) for until, value in self.periods)
        )

    def map(self, change: Callable[[T], U]) -> "Timeline[U]":
        """The same periods of something else."""
        return Timeline(tuple((until, change(value)) for until, value in self.periods))

    @property
    def values(self) -> tuple[T, ...]:
        """What holds at some time, in order, repetitions included."""
        return tuple(value for _, value in self.periods)

    @property
    def changes(self) -> tuple[int, ...]:
        """The steps from which on something else holds."""
        return tuple(until for until, _ in self.periods if until is not None)
