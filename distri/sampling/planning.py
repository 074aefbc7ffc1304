"""The passes of an image, and what of them is refused before anything is computed."""

from distri.model.image import SMALLEST_SIDE_PX, ImageSpec
from distri.model.passes.cascade import plan_cascade
from distri.model.passes.stages import RenderPlan, plan_stages
from distri.ranks.errors import BadImage, BadSize


def plan_of(image: ImageSpec, native_px: int) -> RenderPlan:
    """The passes of an image with a model of this native size. Raises BadImage."""
    highres = image.highres
    if min(image.width, image.height) < SMALLEST_SIDE_PX:
        raise BadSize(image.width, image.height, f"both sides must have at least {SMALLEST_SIDE_PX} pixels")
    if image.steps < 1:
        raise BadImage(f"steps {image.steps}: at least 1")
    if (highres.guidance_scale or 0) > 1 >= image.guidance_scale:
        raise BadImage(f"guidance_scale {highres.guidance_scale:g} of later passes: the first pass is not guided")
    if highres.window_px is not None and highres.window_px < SMALLEST_SIDE_PX:
        raise BadImage(f"window_px {highres.window_px}: at least {SMALLEST_SIDE_PX}")
    if image.picture is not None and not 0 < image.picture.strength <= 1:
        raise BadImage(f"strength {image.picture.strength:g}: above 0 and at most 1")
    if image.picture is not None and (painted := image.picture.inpaint) is not None:
        if painted.rounds < 1:
            raise BadImage(f"{painted.rounds} rounds: at least 1")
        if painted.rounds > 1 and image.picture.strength < 1:
            raise BadImage(f"strength {image.picture.strength:g}: 1 wanted, what is filled in rounds begins with noise")
    size, common = (image.width, image.height), {"steps": image.steps, "seed": image.seed, "native_px": native_px}
    if highres.switch_at is None:
        start = image.picture.start if image.picture is not None else None
        return plan_stages(*size, highres=highres, start=start, **common)
    if not 0 <= highres.switch_at < 1:
        raise BadImage(f"switch_at {highres.switch_at:g}: at least 0 and below 1")
    if highres.refine or image.picture is not None or image.refiner_switch_at is not None:
        raise BadImage("a cascade is one trajectory from noise: without refine, a picture or a refiner")
    if image.control:
        raise BadImage("a cascade is steered by nothing: direct or refine wanted beside control")
    return plan_cascade(*size, highres=highres, **common)
