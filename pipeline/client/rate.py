"""How fast a batch is rendered: images a minute over the last minutes, and how long the rest will take."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=5)
# From fewer than these, a rate would show when images happened to end, not how fast the batch is.
_LEAST_TIME, _LEAST_IMAGES = timedelta(seconds=10), 3


@dataclass
class Throughput:
    """Takes what was done at one moment after another; its figures are None while there is too little to go by."""

    _counts: deque[tuple[datetime, int]] = field(default_factory=deque)

    def record(self, done: int, at: datetime) -> None:
        """Record how many images had an outcome at a moment. Fewer than before (after a retry) start it afresh."""
        if self._counts and done < self._counts[-1][1]:
            self._counts.clear()
        self._counts.append((at, done))
        # The last count before the window stays: the window begins there.
        while len(self._counts) > 2 and self._counts[1][0] <= at - WINDOW:
            self._counts.popleft()

    @property
    def images_a_minute(self) -> float | None:
        """Over the window; None if too little was recorded, or if nothing was done."""
        if not self._counts:
            return None
        (begin, before), (end, after) = self._counts[0], self._counts[-1]
        if end - begin < _LEAST_TIME or after - before < _LEAST_IMAGES:
            return None
        return (after - before) / ((end - begin) / timedelta(minutes=1))

    def left_s(self, total: int) -> float | None:
        """Seconds until `total` images have an outcome, if it goes on at this rate."""
        rate = self.images_a_minute
        return None if rate is None else (total - self._counts[-1][1]) / rate * 60
