"""Whatever steers a UNet, by the diffusers class of its network."""

from __future__ import annotations

from typing import Any

from diffusers import ControlNetUnionModel, T2IAdapter

from distri.layers.context import Context
from distri.layers.control_union import SplitControlNetUnion
from distri.layers.controlnet import SplitControlNet
from distri.layers.t2i_adapter import PatchT2IAdapter

SteeringNetwork = SplitControlNet | PatchT2IAdapter


def split(network: Any, name: str, context: Context) -> SteeringNetwork:
    """Make it one whose work is shared as the UNet's is. Raises Unsplittable.

    Args:
        network: a `ControlNetModel`, a `ControlNetUnionModel` or a `T2IAdapter`.
        name: before the names of its layers in the exchange.
        context: the UNet's.
    """
    if isinstance(network, T2IAdapter):
        return PatchT2IAdapter(network)
    if isinstance(network, ControlNetUnionModel):
        return SplitControlNetUnion(network, name, context)
    return SplitControlNet(network, name, context)
