"""How fast pods do such work as `cost` counts: what estimates, shards, layouts and slots are based on.

What a deployment really does in a second is learned from the jobs that it has finished. Before the first one it is
assumed from published figures of an A100 (arXiv 2402.19481, table of latencies), which every estimate then says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.deployment.control_cost import MEGA
from pipeline.deployment.displacement import Exchange
from pipeline.deployment.layouts import Layout

ASSUMED_TERA_A_SECOND = 134.0  # one A100, fp16, 1024 px: 50 guided steps in 5.02 s
# Patches lose time to messages: n ranks give n / (1 + (n - 1) a / megapixels^b) times the speed of one; a and b:
_LOSS, _LOSS_EXPONENT = 0.27, 0.68
_CFG_SPEEDUP = 1.9  # the halves of guidance on ranks of their own: 8 GPUs at 3840 px make 6.6x of it instead of 6.1x

CLASSES_PER_OCTAVE = 2

# Images at a time that are told apart, and chosen among.
SLOTS = (1, 2, 4, 8)
# Megapixels at which a GPU is half busy; until measured here, from what batches gain elsewhere (docs/performance.md).
_HALF_BUSY_MEGAPIXELS = 0.35

# Most images of a job while nothing is known of this deployment's speed: so that its first jobs do not take all day.
UNKNOWN_IMAGES = 64


def patch_speedup(ranks: int, megapixels: float) -> float:
    """How much faster `ranks` GPUs make one image than one does, by published figures."""
    return ranks / (1 + (ranks - 1) * _LOSS / math.pow(megapixels, _LOSS_EXPONENT))


@dataclass(frozen=True)
class Speed:
    """What the jobs of one kind have done, added up.

    Attributes:
        images, tera: how many, and their work in tera-operations.
        seconds: of encoding, denoising and decoding, a replica's wall time.
        pixels, bytes: of their files.
        pods, idle_s: attempts that ended well, and the seconds in which they rendered nothing: start, load, end.
    """

    images: int = 0
    tera: float = 0.0
    seconds: float = 0.0
    pixels: int = 0
    bytes: int = 0
    pods: int = 0
    idle_s: float = 0.0


@dataclass(frozen=True)
class SpeedKey:
    """What makes jobs comparable. `size` is half an octave of pixels, `slots` images at a time."""

    model: str
    layout: Layout
    exact: bool
    device: str
    size: int
    slots: int = 1
    exchange: Exchange = Exchange.DISPLACED

    @classmethod
    def of(
        cls,
        model: str,
        layout: Layout,
        *,
        exact: bool,
        device: str,
        pixels: int,
        together: int = 1,
        exchange: Exchange = Exchange.DISPLACED,
    ) -> SpeedKey:
        """The kind that an image of so many pixels belongs to, of which so many were evaluated together."""
        size, slots = size_class(pixels), slots_class(together)
        return cls(model, layout, exact, device, size, slots, Exchange.DISPLACED if exact else exchange)


def slots_class(slots: int) -> int:
    """The number of images at a time that so many are counted as."""
    return max(one for one in SLOTS if one <= slots)


def size_class(pixels: int) -> int:
    """The size class of so many pixels: half octaves of a megapixel, 0 around one."""
    return round(CLASSES_PER_OCTAVE * math.log2(pixels / MEGA))


@dataclass(frozen=True)
class Expectation:
    """How fast one replica is expected to be.

    Attributes:
        tera_a_second: of one replica of the layout.
        learned: whether from this deployment's own jobs.
        basis: what it rests on, for people.
    """

    tera_a_second: float
    learned: bool
    basis: str


def expected_speed(
    speeds: Mapping[SpeedKey, Speed],
    *,
    model: str,
    layout: Layout,
    exact: bool,
    pixels: int,
    slots: int = 1,
    device: str = "auto",
    exchange: Exchange = Exchange.DISPLACED,
) -> Expectation:
    """The speed of a replica for images of this size: learned from the nearest size that was rendered, or assumed.

    A speed of another size or layout is carried over by the published figures of what patches lose, one of another
    number of slots by `slots_speedup`, on a CPU by nothing. Of residuals nothing else is assumed than of displaced
    evaluations, with which they were published as equal where GPUs are joined by PCIe (arXiv 2507.17511, table 2).
    """
    wanted = SpeedKey.of(model, layout, exact=exact, device=device, pixels=pixels, together=slots, exchange=exchange)

    def assumed(key: SpeedKey, megapixels: float) -> float:
        gained = 1.0 if device == "cpu" else slots_speedup(key.slots, megapixels / key.layout.patch)
        return assumed_rate(key.layout, megapixels) * gained

    learned = [(key, speed) for key, speed in speeds.items() if key.model == model and speed.seconds > 0]
    if not learned:
        said = f"layout {layout}{_named(wanted.exchange)}"
        basis = f"assumed from published figures of an A100, {said}: nothing was rendered here yet"
        return Expectation(assumed(wanted, pixels / MEGA), learned=False, basis=basis)

    def distance(item: tuple[SpeedKey, Speed]) -> tuple[bool, bool, bool, int, int, int]:
        key, speed = item
        away, others = abs(key.size - wanted.size), abs(key.slots - wanted.slots)
        return key.layout != layout, key.exact != exact, key.exchange != wanted.exchange, away, others, -speed.images

    key, speed = min(learned, key=distance)
    known = assumed(key, 2 ** (key.size / CLASSES_PER_OCTAVE))
    same = replace(key, device=device) == wanted
    at_a_time = f", {key.slots} at a time" if key.slots > 1 else ""
    carried = "" if same else ", carried over"
    basis = f"{speed.images} images on {key.device}, layout {key.layout}{at_a_time}{_named(key.exchange)}{carried}"
    return Expectation(speed.tera / speed.seconds * assumed(wanted, pixels / MEGA) / known, learned=True, basis=basis)


def _named(exchange: Exchange) -> str:
    return "" if exchange is Exchange.DISPLACED else f", {exchange.value} exchange"


def slots_speedup(slots: int, megapixels: float) -> float:
    """How much faster a GPU is expected to be with several images at a time, which fill it better than one.

    Args:
        slots: how many.
        megapixels: of each of them that the GPU computes.
    """
    return slots * (megapixels + _HALF_BUSY_MEGAPIXELS) / (slots * megapixels + _HALF_BUSY_MEGAPIXELS)


def assumed_rate(layout: Layout, megapixels: float) -> float:
    """Tera-operations per second of one replica of a layout, by published figures."""
    halves = _CFG_SPEEDUP if layout.cfg == 2 else 1.0
    return ASSUMED_TERA_A_SECOND * halves * patch_speedup(layout.patch, megapixels)


def paces(speeds: Mapping[SpeedKey, Speed]) -> dict[str, float]:
    """By model, how many times as fast as assumed this deployment has been over all that it has rendered."""
    assumed: dict[str, float] = {}
    real: dict[str, float] = {}
    for key, speed in speeds.items():
        if speed.seconds > 0:
            rate = assumed_rate(key.layout, 2 ** (key.size / CLASSES_PER_OCTAVE))
            assumed[key.model] = assumed.get(key.model, 0.0) + speed.tera / rate
            real[key.model] = real.get(key.model, 0.0) + speed.seconds
    return {model: assumed[model] / real[model] for model in real}
