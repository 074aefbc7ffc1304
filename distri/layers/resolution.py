"""At which resolution each part of SDXL's UNet works."""

from collections.abc import Iterator
from typing import Any

EMBEDDING = "controlnet_cond_embedding"  # of a control network's picture: computed once a pass, for the whole picture


def evaluated(network: Any) -> Iterator[tuple[str, Any]]:
    """The modules that each evaluation calls, by name: all but what a control network makes of its picture."""
    return ((site, module) for site, module in network.named_modules() if not site.startswith(EMBEDDING))


def halvings_of(unet: Any, site: str) -> int:
    """How many stride-2 layers lie before the norms and attentions of a part of the UNet, by the part's name."""
    levels = len(unet.config.block_out_channels)
    part, _, rest = site.partition(".")
    if part == "down_blocks":
        return int(rest.split(".")[0]) if rest else 0
    if part == "up_blocks":
        return levels - 1 - int(rest.split(".")[0]) if rest else 0
    if part == "controlnet_down_blocks" and rest:
        return _of_residual(unet, int(rest))
    return levels - 1 if part in ("mid_block", "controlnet_mid_block") else 0


def halvings_before_conv(unet: Any, site: str) -> int:
    """Halvings before a convolution; the one after an upsampling already sees twice the rows."""
    return halvings_of(unet, site) - ("upsamplers" in site)


def nearest_output(unet: Any) -> str:
    """What the names of all layers in the transformer nearest the output begin with; nothing if there is none."""
    names = [
        f"up_blocks.{number}.attentions.{place}."
        for number, block in enumerate(getattr(unet, "up_blocks", ()))
        for place in range(len(getattr(block, "attentions", None) or ()))
    ]
    return names[-1] if names else ""


def _of_residual(controlnet: Any, number: int) -> int:
    """The level of what a control network's down blocks give: the first convolution's, then each block's layers'."""
    each = (
        int(controlnet.config.layers_per_block) + 1
    )  # with the stride-2 layer behind them, which is of the next level
    return number // each
