"""How much work a picture is, and how fast pods have done such work: what estimates, shards and layouts are based on.

Work is counted in floating-point operations of SDXL at full width, from its shapes; what a deployment really does in a
second is learned from the jobs that it has finished. Before the first one it is assumed from published figures of an
A100 (arXiv 2402.19481, table of latencies), which every estimate then says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.deployment import cascade_steps
from pipeline.deployment.control_cost import CONTROLNET, MEGA, REFERENCE, features_tera, steered_share
from pipeline.deployment.displacement import Exchange
from pipeline.deployment.layouts import Layout
from pipeline.picture import Cascade, Enlargement, HighresMode, Picture, Syntax

SDXL_NATIVE_PX = 1024  # side of the square that SDXL was trained on; models of other sizes say so

# Tera-operations of one evaluation of SDXL's UNet, of a decode and of an encode, by megapixels: linear layers and
# convolutions grow with them, self-attention with their square. Fitted to counts at 1024, 2048 and 3840 px
# (`python -m benchmarks.engine arithmetic`), which they meet within 0.1 %.
UNET, DECODE, ENCODE = (5.957, 0.752), (9.921, 0.550), (4.329, 0.550)

# Schedulers that ask the network twice a step.
TWO_EVALUATIONS = frozenset({"HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"})

# By how much one refining pass enlarges at most (docs/pictures.md). distri/model/passes/stages.py, which stands alone,
# has the same number and counts passes by the same formula; a test holds them together.
LARGEST_STEP = 2.15

_AND = re.compile(r"\bAND\b")  # joins prompts in A1111's syntax

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


def tera_operations(picture: Picture, native_px: int) -> float:
    """Work of one image: every pass, both halves of guidance, decode, and what a refining pass adds."""
    return _of_passes(picture, native_px) + features_tera(picture)


def _of_passes(picture: Picture, native_px: int) -> float:
    halves = _conditions_a_step(picture, picture.guidance_scale)
    twice = 2 if picture.scheduler is not None and picture.scheduler.name in TWO_EVALUATIONS else 1
    highres, later = picture.highres, picture.later_passes
    later_halves = halves if later.guidance_scale is None else _conditions_a_step(picture, later.guidance_scale)
    whole = picture.width * picture.height / MEGA
    first, passes = whole, 0
    if highres.mode is HighresMode.REFINE:
        first = min(whole, (highres.base_px or native_px) ** 2 / MEGA)
        passes = math.ceil(math.log(math.sqrt(whole / first)) / math.log(LARGEST_STEP) - 1e-9) if whole > first else 0
    if picture.cascade is not None:
        return _of_cascade(picture, picture.cascade, twice, native_px)
    if picture.image is not None:
        return _from_picture(picture, whole, twice, halves, later_halves)
    total: float = picture.steps * twice * halves * _evaluation(picture, first if passes else whole, None)
    for number in range(1, passes + 1):
        pixels = first * math.pow(whole / first, number / passes)
        before = first * math.pow(whole / first, (number - 1) / passes)
        evaluations = max(1, round((highres.steps or picture.steps) * highres.strength)) * twice * later_halves
        if later.enlargement is not Enlargement.LATENTS:
            total += _at(DECODE, before) + _at(ENCODE, pixels)
        total += evaluations * _evaluation(picture, pixels, later.window_px)
    return total + _at(DECODE, whole)


def _of_cascade(picture: Picture, cascade: Cascade, twice: int, native_px: int) -> float:
    """One schedule, whose early steps are those of smaller pictures, guided in the first of them; one decode."""
    halvings = cascade_steps.halvings(picture.width, picture.height, cascade.base_px or native_px)
    whole, total, first = picture.width * picture.height / MEGA, 0.0, 0
    for number, end in enumerate(cascade_steps.ends(picture.steps, cascade.switch_at, halvings)):
        if end > first:
            scale = cascade.guidance_scale if first and cascade.guidance_scale is not None else picture.guidance_scale
            evaluations = (end - first) * twice * _conditions_a_step(picture, scale, range(first, end))
            total += evaluations * _evaluation(picture, whole / 4 ** (halvings - number), None)
        first = max(first, end)
    return total + _at(DECODE, whole)


def _from_picture(picture: Picture, whole: float, twice: int, halves: float, later_halves: float) -> float:
    """Passes that begin with a picture: the first walks its own share of the schedule, later ones that of highres."""
    image, highres, later, painted = picture.image, picture.highres, picture.later_passes, picture.inpaint
    begins = image.width * image.height / MEGA if image is not None else whole
    if painted is not None and painted.region is not None:
        begins = whole = painted.region.rendered[0] * painted.region.rendered[1] / MEGA
    passes = 1
    if highres.mode is HighresMode.REFINE and whole > begins:
        passes = math.ceil(math.log(math.sqrt(whole / begins)) / math.log(LARGEST_STEP) - 1e-9)
    total, before = 0.0, 0.0
    for number in range(1, passes + 1):
        pixels = begins * math.pow(whole / begins, number / passes) if number < passes else whole
        first = number == 1
        steps = picture.steps if first else highres.steps or picture.steps
        strength = (picture.strength or 1.0) if first else highres.strength
        if first or later.enlargement is not Enlargement.LATENTS:
            total += (0.0 if first else _at(DECODE, before)) + _at(ENCODE, pixels)
        if painted is not None and not first:
            total += _at(ENCODE, pixels)  # what stays of the picture, in this size
        probing = painted.probing_evaluations if painted is not None and first else 0
        evaluations = (max(1, int(steps * strength)) * twice + probing) * (halves if first else later_halves)
        total += evaluations * _evaluation(picture, pixels, later.window_px)
        before = pixels
    return total + _at(DECODE, whole)


def _conditions_a_step(picture: Picture, guidance_scale: float, walked: range | None = None) -> float:
    """How many conditions an evaluation has in the mean: each prompt joined by AND, and the negative one.

    There is no negative one outside `guidance_interval`, nor without guidance, but that AND needs it. `walked` are the
    steps that are counted; None means all of the schedule.
    """
    prompts = 1 + len(_AND.findall(picture.prompt)) if picture.syntax is Syntax.A1111 else 1
    if prompts > 1 or guidance_scale <= 1:
        return prompts + int(prompts > 1)
    first, end = (math.ceil(share * picture.steps) for share in picture.guidance_interval)
    walked = range(picture.steps) if walked is None else walked
    guided = range(max(first, walked.start), min(end, walked.stop))
    return 1 + len(guided) / len(walked)


def _evaluation(picture: Picture, megapixels: float, window_px: int | None) -> float:
    """Of one evaluation for one condition, with what steers it: each network in the share of steps in which it does."""
    own = unet_tera(megapixels, window_px) + len(picture.reference) * REFERENCE * megapixels
    return own + steered_share(picture) * _within(CONTROLNET, megapixels, window_px)


def unet_tera(megapixels: float, window_px: int | None) -> float:
    """Of one evaluation for one condition; within windows a token sees as many others as a window has."""
    return _within(UNET, megapixels, window_px)


def _within(coefficients: tuple[float, float], megapixels: float, window_px: int | None) -> float:
    linear, square = coefficients
    seen = megapixels if window_px is None else min(megapixels, window_px**2 / MEGA)
    return linear * megapixels + square * megapixels * seen


def _at(coefficients: tuple[float, float], megapixels: float) -> float:
    linear, square = coefficients
    return linear * megapixels + square * megapixels**2


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
        slots = max(one for one in SLOTS if one <= together)
        return cls(model, layout, exact, device, size_class(pixels), slots, Exchange.DISPLACED if exact else exchange)


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
    exchange: Exchange = Exchange.DISPLACED,
) -> Expectation:
    """The speed of a replica for images of this size: learned from the nearest size that was rendered, or assumed.

    A speed of another size or layout is carried over by the published figures of what patches lose, one of another
    number of slots by `slots_speedup`. Of residuals nothing else is assumed than of displaced evaluations, with which
    they were published as equal where GPUs are joined by PCIe (arXiv 2507.17511, table 2).
    """
    wanted = SpeedKey.of(model, layout, exact=exact, device="", pixels=pixels, exchange=exchange)
    learned = [(key, speed) for key, speed in speeds.items() if key.model == model and speed.seconds > 0]
    if not learned:
        said = f"layout {layout}{_named(wanted.exchange)}"
        basis = f"assumed from published figures of an A100, {said}: nothing was rendered here yet"
        rate = assumed_rate(layout, pixels / MEGA) * slots_speedup(slots, pixels / MEGA)
        return Expectation(rate, learned=False, basis=basis)

    def distance(item: tuple[SpeedKey, Speed]) -> tuple[bool, bool, bool, int, int, int]:
        key, speed = item
        away, others = abs(key.size - wanted.size), abs(key.slots - slots)
        return key.layout != layout, key.exact != exact, key.exchange != wanted.exchange, away, others, -speed.images

    key, speed = min(learned, key=distance)
    megapixels = 2 ** (key.size / CLASSES_PER_OCTAVE)
    known = assumed_rate(key.layout, megapixels) * slots_speedup(key.slots, megapixels)
    rate = assumed_rate(layout, pixels / MEGA) * slots_speedup(slots, pixels / MEGA)
    of_key = key.layout, key.exact, key.size, key.slots, key.exchange
    same = of_key == (layout, exact, wanted.size, slots, wanted.exchange)
    at_a_time = f", {key.slots} at a time" if key.slots > 1 else ""
    carried = "" if same else ", carried over"
    basis = f"{speed.images} images on {key.device}, layout {key.layout}{at_a_time}{_named(key.exchange)}{carried}"
    return Expectation(speed.tera / speed.seconds * rate / known, learned=True, basis=basis)


def _named(exchange: Exchange) -> str:
    return "" if exchange is Exchange.DISPLACED else f", {exchange.value} exchange"


def slots_speedup(slots: int, megapixels: float) -> float:
    """How much faster a GPU is expected to be with several images at a time, which fill it better than one."""
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
