"""How many images a replica evaluates together: the fewest that give about as many images an hour as any number."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.deployment.displacement import Exchange
from pipeline.deployment.layouts import Layout
from pipeline.deployment.speed import SLOTS, Speed, SpeedKey, expected_speed

# Less is not worth what a larger table takes: memory, and the time until an image is finished.
WORTH = 1.1
# One job in so many tries another number, until so many images were rendered with it: what nobody tries nobody learns.
TRY_EVERY, TRIED_IMAGES = 16, 64


def tries(job: str) -> bool:
    """Whether this job, by its name, is one that tries another number: one of 16 jobs, however few a batch has."""
    return zlib.crc32(job.encode()) % TRY_EVERY == 0


@dataclass(frozen=True)
class SlotChoice:
    """A number of slots, and why it was chosen."""

    slots: int
    reason: str


def fixed_slots(pinned: int | None, goal: str) -> int | None:
    """The number that settings say; None where the goal wants whatever gives most images an hour."""
    if pinned is not None:
        return pinned
    return None if goal == "throughput" else 1  # so that an image is finished soon


def chosen_slots(
    fixed: int | None,
    speeds: Mapping[SpeedKey, Speed],
    *,
    model: str,
    layout: Layout,
    exact: bool,
    pixels: int,
    images: int,
    device: str,
    exchange: Exchange,
) -> SlotChoice:
    """How many images a replica is to evaluate together at most; a pod takes fewer where its memory holds no more.

    Args:
        fixed: what settings say.
        speeds: what the deployment has learned.
        model, layout, exact, pixels: of the job; pixels of its largest image.
        images: that one replica has to render.
        device: on a CPU several at a time gain nothing, as long as nothing else was learned.
        exchange: how GPUs that share an image exchange.
    """
    if fixed is not None:
        return SlotChoice(fixed, "as the settings say")
    kind: dict[str, Any] = {
        "model": model,
        "layout": layout,
        "exact": exact,
        "pixels": pixels,
        "exchange": exchange,
    }
    rates = {
        slots: expected_speed(speeds, slots=slots, device=device, **kind).tera_a_second
        for slots in SLOTS
        if slots <= max(1, images) and (device != "cpu" or slots == 1 or _alike(speeds, slots=slots, **kind))
    }
    best = max(rates.values())
    slots = next(slots for slots, rate in sorted(rates.items()) if rate * WORTH >= best)
    return SlotChoice(slots, f"expected {rates[slots] / rates[1]:.2g} times as many images an hour as one")


def slots_to_try(
    choice: SlotChoice,
    speeds: Mapping[SpeedKey, Speed],
    *,
    model: str,
    layout: Layout,
    exact: bool,
    pixels: int,
    images: int,
    exchange: Exchange,
) -> SlotChoice:
    """Half or twice as many as chosen, whichever is known less; the choice where both are known, or it is not itself.

    Args:
        choice, speeds, model, layout, exact, pixels, images, exchange: see `chosen_slots`.
    """

    def rendered(slots: int) -> int:
        return sum(
            speed.images
            for speed in _alike(speeds, model, layout, exact=exact, pixels=pixels, slots=slots, exchange=exchange)
        )

    near = [slots for slots in SLOTS if slots in (choice.slots // 2, choice.slots * 2) and slots <= images]
    unknown = [slots for slots in near if rendered(slots) < TRIED_IMAGES]
    if not unknown or rendered(choice.slots) < TRIED_IMAGES:
        return choice
    return SlotChoice(min(unknown, key=rendered), f"tried, to learn whether it is better than {choice.slots}")


def _alike(
    speeds: Mapping[SpeedKey, Speed],
    model: str,
    layout: Layout,
    *,
    exact: bool,
    pixels: int,
    slots: int,
    exchange: Exchange,
) -> list[Speed]:
    """What was learned of just this kind of job with so many slots, on whatever device."""
    wanted = SpeedKey.of(model, layout, exact=exact, device="", pixels=pixels, together=slots, exchange=exchange)
    return [speed for key, speed in speeds.items() if replace(key, device="") == wanted]
