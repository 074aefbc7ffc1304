"""The passes that render a picture, their sizes and seeds: decided before anything is rendered. No torch."""

import hashlib
import math
from dataclasses import dataclass
from enum import Enum

FACTOR = 8  # pixels along one side of a latent element of SDXL

# One pass enlarges by about two at most: a denoising of low strength adds detail and invents no shapes. A little more
# is allowed, so that 2160 pixels from 1024 take one pass, as 2048 do.
LARGEST_STEP = 2.15


class Enlargement(Enum):
    """What is enlarged between two passes."""

    PIXELS = "pixels"  # the decoded picture, encoded again
    LATENTS = "latents"  # the latent itself
    FREQUENCIES = "frequencies"  # low frequencies of the enlarged latent, high ones of the enlarged picture's


@dataclass(frozen=True)
class Highres:
    """How a picture larger than the model's native size is made.

    Attributes:
        refine: begin near the native size, then enlarge and denoise again; else one pass at full size.
        strength: of each later pass, above 0 and at most 1: the share of the schedule that it runs.
        steps: length of the schedule in later passes; None is as in the first.
        base_px: side of a square with the first pass's area; None is the model's native size.
        window_px: side in pixels of the windows that self-attention is computed in, in later passes; None is the whole
            picture.
        guidance_scale: of later passes, of a cascade in all sizes but the smallest; None is as in the first, and at
            most 1 switches guidance off there.
        enlargement: what is enlarged between passes.
        switch_at: of a cascade (`distri.model.passes.cascade`), the share of the schedule after which its own size
            begins, 0 to below 1; None is without.
    """

    refine: bool = False
    strength: float = 0.3
    steps: int | None = None
    base_px: int | None = None
    window_px: int | None = None
    guidance_scale: float | None = None
    enlargement: Enlargement = Enlargement.PIXELS
    switch_at: float | None = None


@dataclass(frozen=True)
class Part:
    """A part of one schedule that several passes share.

    Attributes:
        first, end: steps, from the first of the schedule; `end` is the first one after it.
        halvings: how often the sides of the picture are halved that is evaluated there.
    """

    first: int
    end: int
    halvings: int


@dataclass(frozen=True)
class Start:
    """A picture that rendering begins with, as far as passes follow from it.

    Attributes:
        width, height: pixels.
        strength: of the first pass, above 0 and at most 1: the share of the schedule that it runs.
    """

    width: int
    height: int
    strength: float


@dataclass(frozen=True)
class Stage:
    """One pass.

    Attributes:
        width, height: pixels, multiples of 8.
        steps: length of its schedule.
        strength: share of the schedule that it runs.
        seed: of its noise.
        window_px: side of the windows that self-attention is computed in; None is the whole picture.
        guidance_scale: its own; None is the image's.
        part: of a schedule that it shares with other passes; None is a schedule of its own.
    """

    width: int
    height: int
    steps: int
    strength: float
    seed: int
    window_px: int | None = None
    guidance_scale: float | None = None
    part: Part | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


@dataclass(frozen=True)
class RenderPlan:
    """How one picture is made.

    Attributes:
        stages: in order; the last one's size is the canvas.
        crop: left and top in pixels of what is asked for within the canvas.
        warnings: what the user should know about how it is rendered.
    """

    stages: tuple[Stage, ...]
    crop: tuple[int, int]
    warnings: tuple[str, ...]

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of the last pass in pixels."""
        return self.stages[-1].width, self.stages[-1].height


def plan_stages(
    width: int,
    height: int,
    *,
    steps: int,
    seed: int,
    highres: Highres,
    native_px: int,
    start: Start | None = None,
) -> RenderPlan:
    """The passes of a picture.

    Args:
        width, height: as asked for, in pixels, of any parity.
        steps: length of the first pass's schedule.
        seed: the image's; later passes get seeds that follow from it.
        highres: how to render above the native size.
        native_px: side of the square that the model was trained on.
        start: what the first pass begins with; None is noise.

    Returns:
        One pass, or for `refine` a first one of `base_px`² pixels in the picture's aspect and then as few others as
        enlarge by no more than `LARGEST_STEP` each, all by the same factor. A picture to begin with takes the place of
        that first pass.
    """
    canvas = _rounded_up(width), _rounded_up(height)
    base_px = math.sqrt(start.width * start.height) if start else highres.base_px or native_px
    growth = math.sqrt(width * height) / base_px
    passes = 1
    if highres.refine and growth > 1:
        passes += math.ceil(math.log(growth) / math.log(LARGEST_STEP))
    later = highres.steps or steps
    stages: list[Stage] = []
    skipped = 1 if start and passes > 1 else 0
    for number in range(skipped, passes):
        # The last pass has the canvas itself; before it, sides shrink by one factor a pass.
        shrink = growth ** (number / (passes - 1) - 1) if number < passes - 1 else 1.0
        across, down = (_nearest(side * shrink, most=side) for side in canvas)
        first = number == skipped
        stages.append(
            Stage(
                across,
                down,
                steps=steps if first else later,
                strength=(start.strength if start else 1.0) if first else highres.strength,
                seed=sub_seed(seed, number - skipped),
                window_px=highres.window_px if number else None,
                guidance_scale=None if first else highres.guidance_scale,
            )
        )
    warnings = []
    if not (highres.refine or start) and width * height > native_px**2:
        warnings.append(
            f"rendered directly at {width}x{height}, above the model's native {native_px}x{native_px}: shapes may "
            "repeat; highres refine avoids that"
        )
    return RenderPlan(tuple(stages), ((canvas[0] - width) // 2, (canvas[1] - height) // 2), tuple(warnings))


def sub_seed(seed: int, number: int) -> int:
    """The seed of pass `number`: the image's own for the first; below 2^32 and unlike its neighbours' for others."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}: pass {number}".encode()).digest()[:4], "big")


def _rounded_up(side: int) -> int:
    return -(-side // FACTOR) * FACTOR


def _nearest(side: float, *, most: int) -> int:
    return min(most, max(FACTOR, FACTOR * round(side / FACTOR)))
