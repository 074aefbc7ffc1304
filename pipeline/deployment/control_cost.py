"""How much work what steers a picture is, in operations of SDXL at full width."""

from __future__ import annotations

from pipeline.input_picture import ControlKind
from pipeline.picture import Picture

MEGA = 2**20

CONTROLNET = (2.603, 0.333)  # of SDXL's size, tera-operations of an evaluation by megapixels, fitted as the UNet's are
REFERENCE = 0.0067  # by megapixels: 16 tokens of a plus adapter, for all tokens of SDXL's 70 cross-attentions
FEATURES = 0.240  # of a T2I-Adapter of SDXL's size, once, by megapixels: counted by its layers' shapes

_ADAPTER = ControlKind.T2I_ADAPTER


def steered_share(picture: Picture) -> float:
    """Evaluations of control networks an evaluation of the UNet; several pictures of one network are one of it."""
    if not picture.control:
        return 0.0
    return sum({one.model: one.end - one.start for one in picture.control if one.kind is not _ADAPTER}.values())


def features_tera(picture: Picture) -> float:
    """Of the features of T2I-Adapters. What earlier passes of a large picture have besides is less than a quarter."""
    if not picture.control:
        return 0.0
    adapters = sum(one.kind is _ADAPTER for one in picture.control)
    return adapters * FEATURES * picture.width * picture.height / MEGA
