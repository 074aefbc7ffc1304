"""How long to wait before what failed is tried again: each time twice as long, up to a cap that holds for all."""

from __future__ import annotations

from collections.abc import Callable

LONGEST_S = 10.0  # an outage that is over is noticed within this time
CAP_S = 300.0  # nobody waits longer than this, whatever for

_MOST_DOUBLINGS = 30  # 2**failures of what failed a thousand times is more than a float holds


def backoff_s(
    failures: int, *, first_s: float, longest_s: float = LONGEST_S, random: Callable[[], float] | None = None
) -> float:
    """Seconds to wait after so many failures in a row.

    Args:
        failures: 1 after the first one.
        first_s: how long to wait after that.
        longest_s: never longer than this, nor than CAP_S.
        random: uniform in [0, 1), for jitter over the upper half of the delay, where many wait for the same thing;
            without it the delay is exact.
    """
    delay_s = min(longest_s, CAP_S, first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
    return delay_s if random is None else delay_s * (0.5 + 0.5 * random())
