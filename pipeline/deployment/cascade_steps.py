"""How the steps of a cascade are divided among its sizes.

distri/model/passes/cascade.py, which stands alone, divides them by the same formulas; a test holds them together.
"""

import math


def halvings(width: int, height: int, base_px: int) -> int:
    """How often both sides of a cascade's first picture are halved: until it is nearest to a square of `base_px`."""
    return max(0, round(math.log2(math.sqrt(width * height) / base_px)))


def ends(steps: int, switch_at: float, halved: int) -> list[int]:
    """Before which step of the schedule each size ends, the smallest first; the last is `steps`.

    The smallest has more than half of what lies before the switch. A size that ends where it began has no step.

    Args:
        steps: of the schedule.
        switch_at: the share of it after which the picture's own size begins.
        halved: how often the first size was, `halvings`.
    """
    shares = (switch_at * (1 + (number + 1) / halved) / 2 for number in range(halved))
    return [*(min(round(steps * share), steps - 1) for share in shares), steps]
