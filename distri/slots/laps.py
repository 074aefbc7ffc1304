"""What each of several images has taken: laps of one clock, shared among those they were for."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distri.ranks.mesh import TrafficCounter
from distri.ranks.spans import Spans


@dataclass
class Taken:
    """What one image has taken, or its share: seconds by span, and bytes that this rank has sent."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    sent_bytes: float = 0.0


class Laps:
    """Laps of the rank's own track, each from the end of the one before; noted as spans.

    Args:
        spans: where they are noted.
        now_ns: the clock; on a GPU it waits for the device first.
        traffic: what this rank has sent.
    """

    def __init__(self, spans: Spans, now_ns: Callable[[], int], traffic: TrafficCounter) -> None:
        self._spans, self._now_ns, self._traffic = spans, now_ns, traffic
        self.begin()

    def begin(self) -> None:
        """Start the next lap now; what was between belongs to nobody."""
        self._last_ns, self._last_bytes = self._now_ns(), self._traffic.sent_bytes

    def lap(self, name: str, among: Sequence[Taken], **detail: Any) -> None:
        """Note a span of this name from the last lap until now, and share it among some images."""
        end_ns, end_bytes = self._now_ns(), self._traffic.sent_bytes
        self._spans.add(name, self._last_ns, end_ns, **detail)
        for taken in among:
            taken.seconds[name] += (end_ns - self._last_ns) / 1e9 / len(among)
            taken.sent_bytes += (end_bytes - self._last_bytes) / len(among)
        self._last_ns, self._last_bytes = end_ns, end_bytes
