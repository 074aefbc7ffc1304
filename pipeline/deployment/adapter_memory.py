"""What adapters take of each GPU beside the model, told in the pixels of an image that they leave no room for.

Their weights are on every rank of a pod, whatever the number of patches. Sizes are those of SDXL in half precision; of
what depends on the file, which is not read here, the largest that is published.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.input_picture import ControlKind
from pipeline.picture import Picture

NETWORK_GB: Mapping[ControlKind, float] = {
    ControlKind.CONTROLNET: 2.502,
    ControlKind.UNION: 2.512,
    ControlKind.T2I_ADAPTER: 0.158,
}
IP_ADAPTER_GB = 0.848  # plus: keys and values of 70 layers, and its resampler
IMAGE_ENCODER_GB = 3.690  # ViT-bigG; an engine keeps one at a time

# What a decode takes, which is more than an evaluation does: SDXL's VAE in bfloat16, by a million pixels.
GB_A_MEGAPIXEL = 1.664


def adapter_gb(picture: Picture) -> float:
    """Of all that a picture names, which is in memory while it is rendered."""
    if not (picture.control or picture.reference):
        return 0.0
    networks = {one.model: NETWORK_GB[one.kind] for one in picture.control}
    adapters = len({one.adapter for one in picture.reference})
    return sum(networks.values()) + adapters * IP_ADAPTER_GB + (IMAGE_ENCODER_GB if adapters else 0.0)


def adapter_pixels(picture: Picture) -> int:
    """How many pixels less a GPU has room for than without them."""
    return round(adapter_gb(picture) / GB_A_MEGAPIXEL * 1e6)
