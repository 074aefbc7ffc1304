"""At which resolution each part of SDXL's UNet works."""

from typing import Any


def halvings_of(unet: Any, site: str) -> int:
    """How many stride-2 layers lie before the norms and attentions of a part of the UNet, by the part's name."""
    levels = len(unet.config.block_out_channels)
    part, _, rest = site.partition(".")
    if part == "down_blocks":
        return int(rest.split(".")[0]) if rest else 0
    if part == "up_blocks":
        return levels - 1 - int(rest.split(".")[0]) if rest else 0
    return levels - 1 if part == "mid_block" else 0


def halvings_before_conv(unet: Any, site: str) -> int:
    """Halvings before a convolution; the one after an upsampling already sees twice the rows."""
    return halvings_of(unet, site) - ("upsamplers" in site)
