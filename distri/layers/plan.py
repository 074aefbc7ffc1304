"""Which module of a diffusers network becomes which split layer; a module that is in no table is refused by name.

A layer takes the place of its module's `forward` on that one instance. Module tree, names and weights stay as they are,
so nothing is copied, and removing the layers restores the plain network. Only the order of a convolution's weights in
memory changes where networks are laid channels last. Layers read the weights at every call, so that a LoRA may be fused
into them in place; peft's own layers are refused.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distri.layers.attention import PatchSelfAttention, TextCrossAttention
from distri.layers.context import Context
from distri.layers.conv import PatchConv2d, PatchDownsample2d
from distri.layers.feed_forward import FusedGEGLU
from distri.layers.norm import PatchGroupNorm
from distri.layers.resnet import FusedResnetBlock2d
from distri.layers.transformer import PatchTransformer2d
from distri.ranks.errors import Unsplittable

# Split over the patches: they read beyond one pixel, or move tokens between ranks.
SPLIT: dict[str, Callable[[Any, str, Context, int], Callable[..., Any]]] = {
    "Conv2d": lambda module, site, context, _: PatchConv2d(module, site, context),
    "Downsample2D": lambda module, site, context, _: PatchDownsample2d(module, site, context),
    "GroupNorm": PatchGroupNorm,
    "Transformer2DModel": PatchTransformer2d,
    "Attention": lambda module, site, context, halvings: (
        TextCrossAttention(module, site, context, halvings)
        if module.is_cross_attention
        else PatchSelfAttention(module, site, context, halvings)
    ),
}

# Not split, but with kernels of their own where kernels are used; elsewhere diffusers' forward as it is.
FUSED: dict[str, Callable[[Any, Context], Callable[..., Any]]] = {
    "GEGLU": FusedGEGLU,
    "ResnetBlock2D": FusedResnetBlock2d,
}

# A norm, and the SiLU that its owner calls next, which the norm then computes as well.
FOLLOWED = {"conv_norm_out": "conv_act"}

# As they are: they compute each pixel or token by itself, or only call their children.
LOCAL = frozenset(
    {
        *("Linear", "LayerNorm", "Dropout", "SiLU", "Timesteps", "TimestepEmbedding", "FeedForward"),
        *("ModuleList", "UNet2DConditionModel", "ControlNetModel", "BasicTransformerBlock"),
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
        prefix: before the names of its layers in the exchange, where several networks share one.
        plain: parts that are left as they are, by name.

    Raises:
        Unsplittable: a module has no place in the tables, or a setting that its layer does not know. Nothing has been
            changed then.
    """

    def __init__(
        self,
        network: nn.Module,
        context: Context,
        halvings: Callable[[str], int],
        *,
        prefix: str = "",
        plain: tuple[str, ...] = (),
    ) -> None:
        kinds = [
            (site, module, _kind(site, module))
            for site, module in network.named_modules()
            if site.partition(".")[0] not in plain
        ]
        layers: dict[nn.Module, Callable[..., Any]] = {}
        for site, module, kind in kinds:
            if kind in SPLIT:
                layers[module] = SPLIT[kind](module, prefix + site, context, halvings(site))
            elif kind in FUSED:
                layers[module] = FUSED[kind](module, context)
        for name, act_name in FOLLOWED.items():
            norm, act = getattr(network, name, None), getattr(network, act_name, None)
            if type(norm) is nn.GroupNorm and type(act) is nn.SiLU:
                layers[norm], layers[act] = partial(layers[norm], silu=True), _as_it_is
        self._texts = [layer for layer in layers.values() if isinstance(layer, TextCrossAttention)]
        for module, layer in layers.items():
            module.forward = layer
        self._modules = list(layers)
        self._relaid = [module for _, module, kind in kinds if kind == "Conv2d"] if context.channels_last else []
        self._lay(torch.channels_last)

    def read_text(self, text_BLC: Tensor) -> None:
        """Compute keys and values of a text for all layers that attend to one, into the context."""
        for layer in self._texts:
            layer.read(text_BLC)

    def remove(self) -> None:
        """Restore the plain network."""
        for module in self._modules:
            module.__dict__.pop("forward", None)
        self._lay(torch.contiguous_format)
        self._modules, self._relaid, self._texts = [], [], []

    def _lay(self, memory_format: torch.memory_format) -> None:
        with torch.inference_mode(False):
            for module in self._relaid:
                module.weight.data = module.weight.data.contiguous(memory_format=memory_format)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _kind(site: str, module: nn.Module) -> str:
    kind = type(module).__name__
    if kind not in SPLIT and kind not in FUSED and kind not in LOCAL:
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
