"""The names that trainers give to a model's modules and to the tensors beside them.

Trainers and user interfaces name one module in many ways: with dots or underscores, by diffusers' names or by those of
the original network (LDM: `input_blocks.4.1`), behind a prefix of their own. All are brought to one form, in which dots
are underscores, and looked up among the names of the modules that a model has.

Sources: kohya-ss/sd-scripts (`lora_unet_`, `lora_te1_`, `oft_unet_`), LyCORIS (`lycoris_`), diffusers (`unet.`), peft
(`base_model.model.`), ComfyUI (`diffusion_model.`, `text_encoders.clip_l.`), OneTrainer (`clip_l.`, `bundle_emb.`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

UNET, TEXT_ENCODER, TEXT_ENCODER_2 = PARTS = ("unet", "text_encoder", "text_encoder_2")

BUNDLE = "bundle_emb."  # before the names of textual inversions that OneTrainer puts into a LoRA file

# What stands before a module's name; a part without any prefix comes last.
_PREFIXES = (
    (
        TEXT_ENCODER_2,
        r"(?:base_model_model_)?(?:(?:lora|lycoris|oft)_te2_|text_encoder_2_|(?:text_encoders_)?clip_g_(?:transformer_)?)",
    ),
    (
        TEXT_ENCODER,
        r"(?:base_model_model_)?(?:(?:lora|lycoris|oft)_te1?_|text_encoder_|(?:text_encoders_)?clip_l_(?:transformer_)?"
        r"|conditioner_embedders_0_transformer_)?",
    ),
    (
        UNET,
        r"(?:base_model_model_)?(?:(?:lora|lycoris|oft)_unet_|lycoris_|unet_|(?:model_)?diffusion_model_)?",
    ),
)
_PLACES = tuple((part, re.compile(prefix)) for part, prefix in _PREFIXES)

# How tensors' names end, and what the tensor is called here. Longer ends come first.
_SIDES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.alpha": "alpha",
    ".lora.alpha": "alpha",
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    **{f".hada_{name}": f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{name}": f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f".{name}.weight": f"glora_{name}" for name in ("a1", "a2", "b1", "b2")},
    ".oft_blocks": "oft_blocks",
    ".oft_diag": "oft_blocks",  # LyCORIS before 2.0
    ".rescale": "rescale",
    ".on_input": "on_input",
    ".weight": "weight",
    ".bias": "bias",
}
_ENDS = re.compile(r"(.+?)(" + "|".join(map(re.escape, sorted(_SIDES, key=len, reverse=True))) + ")", re.DOTALL)
# peft puts the name of the adapter into that of the tensor: lora_A.default.weight.
_PEFT = re.compile(r"(.+)\.lora_(A|B|magnitude_vector)(?:\.(?!weight$|bias$)[^.]+)?(?:\.(weight|bias))?", re.DOTALL)
_PEFT_SIDES = {
    ("A", False): "down",
    ("B", False): "up",
    ("B", True): "up_bias",
    ("magnitude_vector", False): "magnitude",
}

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_IN_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_IN_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class ModuleName:
    """A module that a name may mean: the part of the pipeline, and its name in there with underscores for dots."""

    part: str
    name: str


def split_key(key: str) -> tuple[str, str]:
    """A tensor's name as that of its module and what the tensor is: `down`, `hada_w1_a`, ...; "" if unknown."""
    if (match := _PEFT.fullmatch(key)) and (side := _PEFT_SIDES.get((match[2], match[3] == "bias"))):
        return match[1], side
    if match := _ENDS.fullmatch(key):
        return match[1], _SIDES[match[2]]
    return key, ""


def places(module: str) -> Iterator[ModuleName]:
    """The modules that a name in a file may mean, whether or not a model has them."""
    name = module.replace(".", "_").replace("_processor_to_", "_to_")
    for part, prefix in _PLACES:
        if match := prefix.match(name):
            rest = name[match.end() :]
            yield ModuleName(part, rest if part == UNET else rest.removeprefix("text_model_"))


def module_names(part: str, modules: Iterable[str]) -> dict[ModuleName, str]:
    """All names of a part's modules, to the name by which the part has them.

    Args:
        part: one of `PARTS`.
        modules: names with dots, as diffusers and transformers have them.
    """
    modules = list(modules)
    original = ldm_names(modules) if part == UNET else {}
    found = {}
    for module in modules:
        names = _own_names(module) if part == UNET else _text_names(module)
        for name in [*names, *([original[module]] if module in original else [])]:
            found[ModuleName(part, name.replace(".", "_"))] = module
    return found


def _own_names(module: str) -> list[str]:
    return [module, module.removesuffix(".0")] if module.endswith(".to_out.0") else [module]


def _text_names(module: str) -> list[str]:
    """Also those of diffusers before peft, which called a text encoder's projections as the UNet's."""
    name = module.removeprefix("text_model.")
    older = re.sub(r"\.self_attn\.(q|k|v|out)_proj$", r".self_attn.to_\1", name)
    return [name, older] if older != name else [name]


def ldm_names(modules: Iterable[str]) -> dict[str, str]:
    """The names of a UNet's modules in the original network, by diffusers' names."""
    modules = list(modules)
    resnets: dict[tuple[str, int], int] = {}
    with_attention, with_sampler = set[tuple[str, int]](), set[tuple[str, int]]()
    for module in modules:
        if match := _IN_BLOCK.match(module):
            block = (match[1], int(match[2]))
            if match[3] == "resnets":
                resnets[block] = max(resnets.get(block, 0), int(match[4]) + 1)
            (with_attention if match[3] == "attentions" else with_sampler).add(block)
    starts = _starts(resnets, with_sampler)
    names = {}
    for module in modules:
        if module in _OUTSIDE:
            names[module] = _OUTSIDE[module]
        elif match := _IN_MIDDLE.match(module):
            place = 1 if match[1] == "attentions" else 2 * int(match[2])
            names[module] = f"middle_block.{place}.{_RESNET.get(match[3], match[3])}"
        elif match := _IN_BLOCK.match(module):
            block, number, inner = (match[1], int(match[2])), int(match[4]), match[5]
            side = "input" if match[1] == "down" else "output"
            start = starts[block]
            if match[3] == "resnets":
                names[module] = f"{side}_blocks.{start + number}.0.{_RESNET.get(inner, inner)}"
            elif match[3] == "attentions":
                names[module] = f"{side}_blocks.{start + number}.1.{inner}"
            elif match[3] == "downsamplers":
                names[module] = f"input_blocks.{start + resnets[block]}.0.{'op' if inner == 'conv' else inner}"
            else:
                names[module] = (
                    f"output_blocks.{start + resnets[block] - 1}.{2 if block in with_attention else 1}.{inner}"
                )
    return names


def _starts(resnets: Mapping[tuple[str, int], int], with_sampler: set[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """The number of each block's first part in the original network, which counts through all blocks."""
    starts, following = {}, {"down": 1, "up": 0}
    for block in sorted(resnets):
        starts[block] = following[block[0]]
        following[block[0]] += resnets[block] + (block[0] == "down" and block in with_sampler)
    return starts
