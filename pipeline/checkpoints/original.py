"""Where a network's tensors stand in a file: diffusers' own layout, or that of SDXL's original single files.

The original layout is that of Stability's generative-models, as Civitai distributes checkpoints: one file, the UNet in
input, middle and output blocks, the VAE, CLIP's first text encoder as transformers has it and the second as open_clip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where one tensor stands in a file.

    Attributes:
        key: the file's name for it.
        third: which third of the rows it is, where query, key and value are one tensor; None is all of it.
        transposed: whether it is stored with rows and columns exchanged.
    """

    key: str
    third: int | None = None
    transposed: bool = False


Layout = Callable[[str, Mapping[str, Any]], Place]
_Rules = tuple[tuple[str, str], ...]

_UNET_TOP: _Rules = (
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^add_embedding\.linear_1", "label_emb.0.0"),
    (r"^add_embedding\.linear_2", "label_emb.0.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
)
_UNET_RESNET: _Rules = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
_VAE: _Rules = (
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r".down.\1.block.\2."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r".down.\1.downsample.conv."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)
# Names that diffusers gave the attention of a VAE before version 0.15.
_OLD_VAE: _Rules = (
    (r"\.to_q\.", ".query."),
    (r"\.to_k\.", ".key."),
    (r"\.to_v\.", ".value."),
    (r"\.to_out\.0\.", ".proj_attn."),
)
_OPEN_CLIP: _Rules = (
    (r"^embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm1\.", ".ln_1."),
    (r"\.layer_norm2\.", ".ln_2."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
_UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)")
_VAE_UP = re.compile(r"decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0\.conv)\.(.*)")
_QKV = re.compile(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)")


def same(name: str, _config: Mapping[str, Any]) -> Place:
    """Diffusers' own layout."""
    return Place(name)


def text_model(name: str, _config: Mapping[str, Any]) -> Place:
    """A text encoder's own layout where it stands below `text_model.`; the projection does not."""
    return Place(name if name.startswith("text_projection") else f"text_model.{name}")


def old_vae(name: str, _config: Mapping[str, Any]) -> Place:
    """A VAE as old versions of diffusers wrote it."""
    return Place(_rewritten(name, _OLD_VAE) if ".attentions." in name else name)


def original_unet(name: str, config: Mapping[str, Any]) -> Place:
    """A UNet's tensor in the original layout."""
    match = _UNET_BLOCK.fullmatch(name)
    if match is None:
        return Place(_rewritten(_rewritten(name, _UNET_TOP), _resnet_rules(name)))
    half, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    layers = int(config.get("layers_per_block", 2))
    if kind == "downsamplers":
        return Place(f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}")
    if kind == "upsamplers":
        after_attention = str(config["up_block_types"][block]).startswith("CrossAttn")
        return Place(f"output_blocks.{block * (layers + 1) + layers}.{1 + after_attention}.{rest}")
    place = 1 + block * (layers + 1) + layer if half == "down" else block * (layers + 1) + layer
    side = "input" if half == "down" else "output"
    inner = _rewritten(f".{rest}", _UNET_RESNET)[1:] if kind == "resnets" else rest
    return Place(f"{side}_blocks.{place}.{int(kind == 'attentions')}.{inner}")


def original_vae(name: str, config: Mapping[str, Any]) -> Place:
    """A VAE's tensor in the original layout, whose decoder counts its blocks from the small ones to the large."""
    if match := _VAE_UP.fullmatch(name):
        block = len(config["block_out_channels"]) - 1 - int(match[1])
        inside = "upsample.conv" if match[2] is None else f"block.{match[2]}"
        return Place(_rewritten(f"decoder.up.{block}.{inside}.{match[3]}", _VAE))
    return Place(_rewritten(name, _VAE))


def open_clip(name: str, _config: Mapping[str, Any]) -> Place:
    """A text encoder's tensor as open_clip has it: query, key and value in one, the projection the other side up."""
    if name == "text_projection.weight":
        return Place("text_projection", transposed=True)
    if match := _QKV.fullmatch(name):
        return Place(f"{_rewritten(match[1], _OPEN_CLIP)}.attn.in_proj_{match[3]}", third="qkv".index(match[2]))
    return Place(_rewritten(name, _OPEN_CLIP))


def _resnet_rules(name: str) -> _Rules:
    return _UNET_RESNET if ".resnets." in name else ()


def _rewritten(name: str, rules: _Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
