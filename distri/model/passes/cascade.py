"""The passes of a cascade: one trajectory whose early evaluations are those of smaller pictures.

Subspace diffusion (Jing et al. 2022). A noisy latent x = z + s n of a large picture has in its first Haar coefficients,
those of squares of four, twice the latent of a picture of half the sides and noise of the same s. Halved, they are a
noisy latent of that picture with noise s/2. So an evaluation in that subspace is one of the smaller picture, at the
timestep whose sigma is s/2, and Euler's step there is the step of the large trajectory.
"""

import math

from distri.model.passes.stages import FACTOR, Highres, Part, RenderPlan, Stage, plan_stages, sub_seed


def plan_cascade(width: int, height: int, *, steps: int, seed: int, highres: Highres, native_px: int) -> RenderPlan:
    """The passes of a picture, from the smallest to its own size; they share one schedule.

    Args:
        width, height: as asked for, in pixels, of any parity.
        steps: length of the schedule.
        seed: the image's.
        highres: `switch_at` is the share of the schedule after which its own size begins.
        native_px: side of the square that the model was trained on.

    Returns:
        As many smaller pictures as bring the first one nearest to `base_px`, which is guided, as it is of a size that
        the model knows; all others have the guidance of `highres`. One pass, as `plan_stages` has it, where there is
        no smaller picture.
    """
    halvings = halvings_for(width, height, highres.base_px or native_px)
    ends = [round(steps * share) for share in shares(halvings, highres.switch_at or 0.0)]
    ends = [min(end, steps - 1) for end in ends] + [steps]
    if halvings == 0 or ends[-2] == 0:
        return plan_stages(width, height, steps=steps, seed=seed, highres=Highres(), native_px=native_px)
    grain = FACTOR << halvings
    canvas = -(-width // grain) * grain, -(-height // grain) * grain
    stages: list[Stage] = []
    first = 0
    for number, end in enumerate(ends):
        if end > first:
            level = halvings - number
            stages.append(
                Stage(
                    canvas[0] >> level,
                    canvas[1] >> level,
                    steps=steps,
                    strength=(end - first) / steps,
                    seed=sub_seed(seed, len(stages)),
                    part=Part(first, end, level),
                    guidance_scale=highres.guidance_scale if stages else None,
                )
            )
        first = max(first, end)
    return RenderPlan(tuple(stages), ((canvas[0] - width) // 2, (canvas[1] - height) // 2), ())


def halvings_for(width: int, height: int, base_px: int) -> int:
    """How often both sides are halved, so that the smallest picture is nearest to a square of `base_px`."""
    return max(0, round(math.log2(math.sqrt(width * height) / base_px)))


def shares(halvings: int, until: float) -> list[float]:
    """At which shares of the schedule each smaller picture ends, the smallest first, which has more than half of it."""
    return [until * (1 + (number + 1) / halvings) / 2 for number in range(halvings)]
