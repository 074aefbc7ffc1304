"""Which module of a diffusers network becomes which split layer; a module that is in no table is refused by name.

A layer takes the place of its module's `forward` on that one instance. Module tree, names and weights stay as they are,
so nothing is copied, and removing the layers restores the plain network. Layers read the weights at every call, so
that a LoRA may be fused into them in place; peft's own layers are refused.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from distri.layers.attention import PatchSelfAttention, TextCrossAttention
from distri.layers.context import Context
from distri.layers.conv import PatchConv2d, PatchDownsample2d
from distri.layers.norm import PatchGroupNorm
from distri.layers.transformer import PatchTransformer2d
from distri.ranks.errors import Unsplittable

# Split over the patches: they read beyond one pixel, or move tokens between ranks.
SPLIT: dict[str, Callable[[Any, str, Context, int], Callable[..., Any]]] = {
    "Conv2d": lambda module, site, context, _: PatchConv2d(module, site, context),
    "Downsample2D": lambda module, site, context, _: PatchDownsample2d(module, site, context),
    "GroupNorm": PatchGroupNorm,
    "Transformer2DModel": PatchTransformer2d,
    "Attention": lambda module, site, context, halvings: (
        TextCrossAttention(module, site, context)
        if module.is_cross_attention
        else PatchSelfAttention(module, site, context, halvings)
    ),
}

# As they are: they compute each pixel or token by itself, or only call their children.
LOCAL = frozenset(
    {
        *("Linear", "LayerNorm", "Dropout", "SiLU", "Timesteps", "TimestepEmbedding", "GEGLU", "FeedForward"),
        *("ModuleList", "UNet2DConditionModel", "ResnetBlock2D", "BasicTransformerBlock"),
        *("DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D", "UpBlock2D"),
        *("Upsample2D", "Decoder", "UNetMidBlock2D", "UpDecoderBlock2D", "Encoder", "DownEncoderBlock2D"),
    }
)


_OF_TORCH: dict[str, type[nn.Module]] = {"Conv2d": nn.Conv2d, "GroupNorm": nn.GroupNorm, "Linear": nn.Linear}
_FREEU = ("s1", "s2", "b1", "b2")


class SplitLayers:
    """The layers put into a network.

    Args:
        network: a diffusers module.
        context: what all its layers read.
        halvings: how many stride-2 layers lie before the norms and attentions of a module, by the module's name.

    Raises:
        Unsplittable: a module has no place in the tables, or a setting that its layer does not know. Nothing has been
            changed then.
    """

    def __init__(self, network: nn.Module, context: Context, halvings: Callable[[str], int]) -> None:
        layers = [
            (module, SPLIT[kind](module, site, context, halvings(site)))
            for site, module in network.named_modules()
            if (kind := _kind(site, module)) in SPLIT
        ]
        self._modules = [module for module, _ in layers]
        for module, layer in layers:
            module.forward = layer

    def remove(self) -> None:
        """Restore the plain network."""
        for module in self._modules:
            module.__dict__.pop("forward", None)
        self._modules = []


def _kind(site: str, module: nn.Module) -> str:
    kind = type(module).__name__
    if kind not in SPLIT and kind not in LOCAL:
        raise Unsplittable(site, kind, "it is in no table of the plan")
    if kind in _OF_TORCH and not isinstance(module, _OF_TORCH[kind]):
        raise Unsplittable(site, kind, f"it is {type(module).__module__}'s; fuse adapters into the weights first")
    if kind in ("UpBlock2D", "CrossAttnUpBlock2D") and any(getattr(module, name, None) for name in _FREEU):
        raise Unsplittable(site, kind, "FreeU looks at the whole image; call disable_freeu first")
    if "forward" in module.__dict__:
        raise Unsplittable(site, kind, "its forward is replaced already; remove what replaced it first")
    if kind == "ResnetBlock2D" and (module.upsample is not None or module.downsample is not None):
        raise Unsplittable(site, kind, "it resamples inside")
    if kind == "Upsample2D" and (module.use_conv_transpose or not module.interpolate or module.norm is not None):
        raise Unsplittable(site, kind, "only nearest-neighbour upsampling followed by a convolution is known")
    if kind == "BasicTransformerBlock" and (module.only_cross_attention or module.pos_embed is not None):
        raise Unsplittable(site, kind, "only self-attention without positions followed by cross-attention is known")
    if kind == "Transformer2DModel" and not module.is_input_continuous:
        raise Unsplittable(site, kind, "only continuous input is known")
    return kind
