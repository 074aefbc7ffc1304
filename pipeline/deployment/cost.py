"""How much work a picture is, in floating-point operations of SDXL at full width, counted from its shapes."""

from __future__ import annotations

import math
import re

from pipeline.deployment import cascade_steps
from pipeline.deployment.control_cost import CONTROLNET, MEGA, REFERENCE, features_tera, steered_share
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


def tera_operations(picture: Picture, native_px: int) -> float:
    """Work of one image: every pass, both halves of guidance, decode, and what a refining pass adds."""
    return _of_passes(picture, native_px) + features_tera(picture)


def _of_passes(picture: Picture, native_px: int) -> float:
    twice = 2 if picture.scheduler is not None and picture.scheduler.name in TWO_EVALUATIONS else 1
    highres, later = picture.highres, picture.later_passes
    whole = picture.width * picture.height / MEGA
    first, passes = whole, 0
    if highres.mode is HighresMode.REFINE:
        first = min(whole, (highres.base_px or native_px) ** 2 / MEGA)
        passes = math.ceil(math.log(math.sqrt(whole / first)) / math.log(LARGEST_STEP) - 1e-9) if whole > first else 0
    if picture.cascade is not None:
        return _of_cascade(picture, picture.cascade, twice, native_px)
    if picture.image is not None:
        return _from_picture(picture, whole, twice)
    conditions = _conditions(picture, picture.guidance_scale, picture.steps, range(picture.steps))
    total = conditions * twice * _evaluation(picture, first if passes else whole, None)
    for number in range(1, passes + 1):
        pixels = first * math.pow(whole / first, number / passes)
        before = first * math.pow(whole / first, (number - 1) / passes)
        if later.enlargement is not Enlargement.LATENTS:
            total += _at(DECODE, before) + _at(ENCODE, pixels)
        total += _conditions_later(picture) * twice * _evaluation(picture, pixels, later.window_px)
    return total + _at(DECODE, whole)


def _of_cascade(picture: Picture, cascade: Cascade, twice: int, native_px: int) -> float:
    """One schedule, whose early steps are those of smaller pictures, guided in the first of them; one decode."""
    halvings = cascade_steps.halvings(picture.width, picture.height, cascade.base_px or native_px)
    whole, total, first = picture.width * picture.height / MEGA, 0.0, 0
    for number, end in enumerate(cascade_steps.ends(picture.steps, cascade.switch_at, halvings)):
        if end > first:
            scale = cascade.guidance_scale if first and cascade.guidance_scale is not None else picture.guidance_scale
            conditions = _conditions(picture, scale, picture.steps, range(first, end))
            total += conditions * twice * _evaluation(picture, whole / 4 ** (halvings - number), None)
        first = max(first, end)
    return total + _at(DECODE, whole)


def _from_picture(picture: Picture, whole: float, twice: int) -> float:
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
        if first or later.enlargement is not Enlargement.LATENTS:
            total += (0.0 if first else _at(DECODE, before)) + _at(ENCODE, pixels)
        if painted is not None and not first:
            total += _at(ENCODE, pixels)  # what stays of the picture, in this size
        conditions = _conditions_later(picture) * twice
        if first:
            walked = _walked(picture.steps, picture.strength or 1.0)
            guided = _conditions(picture, picture.guidance_scale, picture.steps, walked)
            probing = painted.probing_evaluations if painted is not None else 0
            conditions = guided * twice + probing * guided / len(walked)
        total += conditions * _evaluation(picture, pixels, later.window_px)
        before = pixels
    return total + _at(DECODE, whole)


def _walked(steps: int, strength: float) -> range:
    """The steps of a schedule that a pass of this strength walks: its last ones, at least one."""
    return range(steps - max(1, int(steps * strength)), steps)


def _conditions_later(picture: Picture) -> float:
    """How many conditions the steps of a later pass have."""
    highres, scale = picture.highres, picture.later_passes.guidance_scale
    steps = highres.steps or picture.steps
    return _conditions(
        picture, picture.guidance_scale if scale is None else scale, steps, _walked(steps, highres.strength)
    )


def _conditions(picture: Picture, guidance_scale: float, steps: int, walked: range) -> float:
    """How many conditions the walked steps of a schedule have: each prompt joined by AND, and the negative one.

    There is no negative one outside `guidance_interval`, nor without guidance, but that AND needs it.
    """
    prompts = 1 + len(_AND.findall(picture.prompt)) if picture.syntax is Syntax.A1111 else 1
    if prompts > 1 or guidance_scale <= 1:
        return len(walked) * (prompts + int(prompts > 1))
    first, end = (math.ceil(share * steps) for share in picture.guidance_interval)
    guided = range(max(first, walked.start), min(end, walked.stop))
    return len(walked) + len(guided)


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
