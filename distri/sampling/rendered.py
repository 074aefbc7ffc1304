"""What a render gives its caller: the picture of one image, and its share of what the batch took."""

from collections.abc import Mapping
from dataclasses import dataclass

from distri.model.image import Evaluations, Rendered
from distri.ranks.spans import RenderSpan
from distri.sampling.pixels import DecodedImage
from distri.sampling.preparation import PreparedImage


@dataclass(frozen=True)
class Spent:
    """What one image of a batch took: its equal share of seconds by span and of bytes sent by this rank."""

    evaluations: Evaluations
    seconds: Mapping[str, float]
    sent_bytes: int


def rendered(
    prepared: PreparedImage,
    picture: DecodedImage,
    repairs: tuple[str, ...],
    spent: Spent,
    of_loras: tuple[str, ...],
) -> Rendered:
    """What a caller gets of one image.

    Args:
        prepared: as it was rendered.
        picture: decoded.
        repairs: what was done again before.
        spent: its share of the batch's work.
        of_loras: what the user should know of its LoRAs.
    """
    image, plan = prepared.image, prepared.plan
    return Rendered(
        pixels=picture.pixels,
        encode_s=spent.seconds[RenderSpan.ENCODE],
        denoise_s=spent.seconds[RenderSpan.DENOISE],
        decode_s=spent.seconds[RenderSpan.DECODE] + spent.seconds.get(RenderSpan.ENLARGE, 0.0),
        evaluations=spent.evaluations,
        bytes_sent=spent.sent_bytes,
        finite=picture.finite,
        blank=picture.blank,
        stages=plan.stages,
        canvas=plan.canvas if plan.canvas != (image.width, image.height) else None,
        crop=plan.crop,
        left_out=prepared.texts.left_out,
        warnings=plan.warnings + prepared.warnings + of_loras,
        repairs=repairs + picture.repairs,
    )
