"""How fast a batch goes, from looks at it: images a minute over the last minutes, and how long the rest takes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=5)
# Before so much was seen, a rate says more about when images happened to end than about the batch.
_LEAST_TIME, _LEAST_IMAGES = timedelta(seconds=10), 3


@dataclass
class Tempo:
    """Takes looks in the order of time; says None rather than what rests on too little."""

    _looks: deque[tuple[datetime, int]] = field(default_factory=deque)

    def saw(self, done: int, at: datetime) -> None:
        """At this moment so many images had an outcome. Fewer than before (a retry) begins anew."""
        if self._looks and done < self._looks[-1][1]:
            self._looks.clear()
        self._looks.append((at, done))
        # The last look before the window stays: the window begins at it.
        while len(self._looks) > 2 and self._looks[1][0] <= at - WINDOW:
            self._looks.popleft()

    @property
    def images_a_minute(self) -> float | None:
        """Over the window; None if too little was seen, or if nothing moved."""
        if not self._looks:
            return None
        (begin, before), (end, after) = self._looks[0], self._looks[-1]
        if end - begin < _LEAST_TIME or after - before < _LEAST_IMAGES:
            return None
        return (after - before) / ((end - begin) / timedelta(minutes=1))

    def left_s(self, total: int) -> float | None:
        """Seconds until so many images have an outcome, if it goes on like this."""
        rate = self.images_a_minute
        return None if rate is None else (total - self._looks[-1][1]) / rate * 60
