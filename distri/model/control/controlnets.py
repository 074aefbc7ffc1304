"""Control networks read from safetensors files: their architecture follows from the model's and from their tensors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from safetensors import SafetensorError, safe_open

from distri.model.control.t2i_adapters import empty_adapter
from distri.ranks.errors import BadControlNet
from pipeline.checkpoints.header import Header, read_header
from pipeline.errors import BadCheckpoint
from pipeline.loras.bases import BY_TEXT_WIDTH

_KINDS = "task_embedding"  # of a ControlNet-Union
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
PICTURE_CHANNELS = 3

# Settings of the model's UNet that its control networks share.
_SHARED = (
    *("flip_sin_to_cos", "freq_shift", "block_out_channels", "layers_per_block", "act_fn"),
    *("norm_num_groups", "norm_eps", "cross_attention_dim", "attention_head_dim", "num_attention_heads"),
    *("use_linear_projection", "addition_embed_type", "addition_time_embed_dim", "mid_block_scale_factor"),
    *("projection_class_embeddings_input_dim",),
)

# Other things that are called control networks, by a name that only they have.
_OTHERS = (
    (r"lllite", "a ControlNet-LLLite, which changes attention instead of adding to blocks"),
    (r"^lora_controlnet$", "a Control-LoRA, which is a difference from the model and no network"),
    (r"^body\.\d", "a T2I-Adapter in the original naming; the diffusers form of it wanted"),
    (r"^(control_model\.)?(input_hint_block|zero_convs)\.", "in the original naming; the diffusers form of it wanted"),
    (r"^(double|single)_blocks\.|^transformer_blocks\.|^controlnet_blocks\.", "for a diffusion transformer"),
)


@dataclass(frozen=True)
class ControlNet:
    """One control network that images name.

    Attributes:
        path: a safetensors file in diffusers' naming.
        sha256: of the file, in hexadecimal, if that is to be checked.
    """

    path: Path
    sha256: str | None = None

    @property
    def name(self) -> str:
        """Unlike that of any other file."""
        return str(self.path)


def load_controlnet(file: ControlNet, unet: Any) -> Any:
    """The network of a file where the UNet is and in its number format, for inference.

    It is a diffusers `ControlNetModel`, `ControlNetUnionModel` or `T2IAdapter`. A control network's architecture is the
    UNet's first half; which blocks attend, how deep, and how it reads pictures say its tensors.

    Raises:
        BadControlNet: it is none, is for another base model, or its digest is another one.
    """
    name = file.path.name
    # Once: diffusers goes through all of a network's modules each time that one asks.
    dtype, device = unet.dtype, unet.device
    try:
        header = read_header(file.path)
        network = _empty(header, unet.config)
        _check_digest(file)
        _check_tensors(name, network, header)
        with safe_open(file.path, framework="pt") as content:
            weights = {
                key: content.get_tensor(key).to(dtype, copy=True).contiguous().to(device) for key in header.tensors
            }
    except BadCheckpoint as error:
        raise BadControlNet(name, str(error)) from error
    except (OSError, SafetensorError) as error:
        raise BadControlNet(name, f"it cannot be read as safetensors: {error}") from error
    if any(not bool(weight.isfinite().all()) for weight in weights.values()):
        raise BadControlNet(name, f"it holds numbers that are not finite in {dtype}")
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _empty(header: Header, unet: Any) -> Any:
    """The network in a file, without weights. Raises BadControlNet."""
    name, tensors = header.path.name, header.tensors
    for pattern, what in _OTHERS:
        if any(re.search(pattern, key) for key in tensors):
            raise BadControlNet(name, f"it is {what}")
    if strange := sorted({tensor.dtype for tensor in tensors.values()} - FLOATS):
        raise BadControlNet(name, f"it has tensors of type {', '.join(strange)}; {', '.join(sorted(FLOATS))} wanted")
    if any(key.startswith("adapter.") for key in tensors):
        return empty_adapter(header, unet)
    config = _config(header, unet)
    with torch.device("meta"):
        return (
            ControlNetUnionModel(**_config_of_union(header, config, unet))
            if _KINDS in tensors
            else ControlNetModel(**config)
        )


def _config_of_union(header: Header, config: dict[str, Any], unet: Any) -> dict[str, Any]:
    """What a network for several kinds of pictures has besides. Raises BadControlNet."""
    shapes = {key: tensor.shape for key, tensor in header.tensors.items()}
    kinds, width = shapes[_KINDS] if len(shapes[_KINDS]) == 2 else (0, 0)
    shifts = shapes.get("spatial_ch_projs.weight", ())
    if not (kinds and shifts == (unet.block_out_channels[0], width)):
        found = f"{_KINDS} of {_shape(shapes[_KINDS])} and spatial_ch_projs.weight of {_shape(shifts) or 'nothing'}"
        raise BadControlNet(header.path.name, f"it is a ControlNet-Union with {found}, which do not fit this model")
    layers = sum(key.endswith(".attn.in_proj_weight") for key in shapes)
    config = {name: value for name, value in config.items() if name != "mid_block_type"}  # it has but one
    return config | {
        "num_control_type": kinds,
        "num_trans_channel": width,
        "num_trans_layer": layers,
        "num_proj_channel": shifts[0],
        "num_trans_head": 1,  # it attends to one row, so that the number makes no difference
    }


def _config(header: Header, unet: Any) -> dict[str, Any]:
    """The configuration of the control network in a file. Raises BadControlNet."""
    name, tensors = header.path.name, header.tensors
    if not any(key.startswith("controlnet_down_blocks.") for key in tensors):
        raise BadControlNet(name, "it has no controlnet_down_blocks: no ControlNet in diffusers' naming")
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    _check_base(name, shapes, unet)
    widths = unet.block_out_channels
    attends = [_depth(shapes, f"down_blocks.{level}.attentions.0") for level in range(len(widths))]
    middle = _depth(shapes, "mid_block.attentions.0")
    hints = [shapes.get("controlnet_cond_embedding.conv_in.weight", (0, 0))]
    number = 0
    while (key := f"controlnet_cond_embedding.blocks.{number}.weight") in shapes:
        hints.append(shapes[key])
        number += 1
    if len(hints) != 7:
        raise BadControlNet(
            name, f"it reads pictures by {len(hints)} convolutions, 7 wanted (8 pixels a latent element)"
        )
    depths = [depth or 1 for depth in attends]
    if middle:
        depths[-1] = middle
    return (
        {setting: getattr(unet, setting) for setting in _SHARED if getattr(unet, setting, None) is not None}
        | {
            "in_channels": unet.out_channels,  # the latent alone, whatever a network for inpainting reads beside it
            "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in attends),
            "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
            "transformer_layers_per_block": tuple(depths),
            "conditioning_channels": PICTURE_CHANNELS,
            # The first one, then every second one, of stride 2.
            "conditioning_embedding_out_channels": tuple(shape[0] for shape in (hints[0], *hints[2::2])),
        }
    )


def _depth(shapes: Mapping[str, tuple[int, ...]], site: str) -> int:
    """How many transformer blocks a stack has; 0 if there is none."""
    depth = 0
    while f"{site}.transformer_blocks.{depth}.norm1.weight" in shapes:
        depth += 1
    return depth


def _check_base(name: str, shapes: Mapping[str, tuple[int, ...]], unet: Any) -> None:
    """Refuse a network for another base model, by what it reads of texts and how wide it is."""
    wanted = unet.cross_attention_dim
    found = {shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight") and len(shape) == 2}
    if found and found != {wanted}:
        width = min(found - {wanted})
        base, own = BY_TEXT_WIDTH.get(width, "another model"), BY_TEXT_WIDTH.get(wanted)
        raise BadControlNet(
            name,
            f"it was made for {base}: its cross-attention reads text of {width} numbers a token, this model's"
            f"{f' ({own})' if own else ''} of {wanted}",
        )
    embedded = shapes.get("add_embedding.linear_1.weight", (0, 0))[1]
    if unet.addition_embed_type == "text_time" and embedded != unet.projection_class_embeddings_input_dim:
        raise BadControlNet(
            name,
            f"it was made for another base model: it takes {embedded or 'no'} numbers of pooled text and sizes, this "
            f"model's control networks {unet.projection_class_embeddings_input_dim}",
        )


def _check_digest(file: ControlNet) -> None:
    if file.sha256 is None:
        return
    with file.path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != file.sha256.lower():
        raise BadControlNet(file.path.name, f"its SHA-256 is {found}, {file.sha256} was wanted")


def _check_tensors(name: str, network: Any, header: Header) -> None:
    """Refuse a file whose tensors are not exactly those of its network."""
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    if missing := sorted(wanted.keys() - header.tensors.keys()):
        raise BadControlNet(name, f"it lacks {len(missing)} of {len(wanted)} tensors ({_some(missing)})")
    if more := sorted(header.tensors.keys() - wanted.keys()):
        raise BadControlNet(name, f"it has {len(more)} tensors that this model's ControlNets have not ({_some(more)})")
    for key, shape in wanted.items():
        if header.tensors[key].shape != shape:
            raise BadControlNet(
                name, f"{key} is of shape {_shape(header.tensors[key].shape)}, {_shape(shape)} wanted for this model"
            )


def _some(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
