"""What a rank did and when: spans of wall time, kept until the job ends.

All ranks of a pod share one machine and so one monotonic clock: their spans can be laid side by side as they are.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

RANK = "rank"  # the track of the rank's own work, one span after the other


class RenderSpan(StrEnum):
    """The spans that rendering an image consists of."""

    ENCODE = "encode"  # prompts to embeddings
    BEGIN = "begin"  # a picture that it begins with to a latent
    DENOISE = "denoise"
    ENLARGE = "enlarge"  # between two passes
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of work.

    Attributes:
        name: what was done.
        track: who did it within the rank; spans of one track do not overlap.
        start_ns, end_ns: of the monotonic clock.
        detail: JSON-able values that belong to it.
    """

    name: str
    track: str
    start_ns: int
    end_ns: int
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Spans:
    """The spans of one process. Threads may add to it; beyond the limit the oldest are dropped and counted."""

    def __init__(self, limit: int = 20_000) -> None:
        self._kept: deque[Span] = deque(maxlen=limit)
        self._added = 0
        self._about: dict[str, Any] = {}

    @contextmanager
    def span(self, name: str, *, track: str = RANK, **detail: Any) -> Iterator[dict[str, Any]]:
        """Note how long the block takes, also if it raises; what is put into the dict it gives is kept as detail."""
        start_ns = time.monotonic_ns()
        try:
            yield detail
        finally:
            self.add(name, start_ns, time.monotonic_ns(), track=track, **detail)

    @contextmanager
    def about(self, **detail: Any) -> Iterator[None]:
        """Add this detail to every span of the rank's own track within the block."""
        before, self._about = self._about, self._about | detail
        try:
            yield
        finally:
            self._about = before

    def add(self, name: str, start_ns: int, end_ns: int, *, track: str = RANK, **detail: Any) -> None:
        """Note a span that was timed elsewhere."""
        self._added += 1
        own = self._about | detail if track == RANK else detail
        self._kept.append(Span(str(name), track, start_ns, end_ns, own))

    def clear(self) -> None:
        """Begin again, for another job of this process."""
        self._kept.clear()
        self._added = 0

    @property
    def forgotten(self) -> int:
        """How many spans no longer fit."""
        return self._added - len(self._kept)

    def __iter__(self) -> Iterator[Span]:
        return iter(list(self._kept))
