"""LoRA files of the formats that there are, with random weights for the demo model."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from distri.model.adapters.file import METADATA_KEY

RANK, ALPHA = 3, 6.0

# Modules of each part of the demo model by the names that peft gives them: attention, feed-forward and convolutions.
UNET = [
    "conv_in",
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.1.attentions.0.proj_in",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj",
    "up_blocks.2.resnets.1.time_emb_proj",
    "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_v",
]
TEXT = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.1.self_attn.out_proj", "encoder.layers.1.mlp.fc1"]

IN_BLOCKS = [
    *(name for name in UNET if "attentions" in name),
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.1.resnets.1.conv2",
    "down_blocks.1.downsamplers.0.conv",
    "mid_block.resnets.0.conv1",
    "up_blocks.0.resnets.2.conv1",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.2.resnets.1.time_emb_proj",
]

# Names of some of the same in the network that kohya's scripts train.
KOHYA = {
    "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "input_blocks_4_1_transformer_blocks_0_attn1_to_q": "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "input_blocks_4_1_proj_in": "down_blocks.1.attentions.0.proj_in",
    "middle_block_1_transformer_blocks_1_ff_net_0_proj": "mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj",
    "output_blocks_2_1_transformer_blocks_0_attn2_to_v": "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_v",
}


def _module(root: Any, name: str) -> Any:
    return root.get_submodule(name if not hasattr(root, "text_model") else f"text_model.{name}")


def _pair(module: Any, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Down and up for one module."""
    generator = torch.Generator().manual_seed(seed)
    out, *inner = module.weight.shape
    down = torch.randn(RANK, *inner, generator=generator) * inner[0] ** -0.5
    up = torch.randn(out, RANK, *[1] * (len(inner) - 1), generator=generator) * 0.3
    return down.contiguous(), up.contiguous()


def peft(path: Path, parts: dict[str, Any], *, seed: int = 1, alpha: float | None = None) -> Path:
    """As diffusers and peft write it; with alpha, in the header."""
    state: dict[str, torch.Tensor] = {}
    header: dict[str, Any] = {}
    for part, names in (("unet", UNET), ("text_encoder", TEXT), ("text_encoder_2", TEXT)):
        for number, name in enumerate(names):
            down, up = _pair(_module(parts[part], name), 100 * seed + number)
            inner = f"text_model.{name}" if part != "unet" else name
            state |= {f"{part}.{inner}.lora_A.weight": down, f"{part}.{inner}.lora_B.weight": up}
        header |= {f"{part}.r": RANK, f"{part}.lora_alpha": alpha}
        header |= {f"{part}.target_modules": [n if part == "unet" else n.split(".")[-1] for n in names]}
    save_file(state, path, {METADATA_KEY: json.dumps(header)} if alpha else None)
    return path


def attentions(path: Path, parts: dict[str, Any], *, seed: int = 6) -> Path:
    """As peft writes a LoRA of blocks with transformers: of these, of the resnets beside them, of the text encoders.

    diffusers cannot give scales by block to what lies elsewhere.
    """
    state: dict[str, torch.Tensor] = {}
    for part, names in (("unet", IN_BLOCKS), ("text_encoder", TEXT), ("text_encoder_2", TEXT)):
        for number, name in enumerate(names):
            down, up = _pair(_module(parts[part], name), 100 * seed + number)
            inner = f"text_model.{name}" if part != "unet" else name
            state |= {f"{part}.{inner}.lora_A.weight": down, f"{part}.{inner}.lora_B.weight": up}
    save_file(state, path)
    return path


def of_unet(path: Path, parts: dict[str, Any], settings: dict[str, Any], *, dora: bool = False, seed: int = 5) -> Path:
    """As peft writes a LoRA of the UNet, with more of its settings in the header; with magnitudes, a DoRA."""
    state: dict[str, torch.Tensor] = {}
    for number, name in enumerate(UNET):
        module = _module(parts["unet"], name)
        down, up = _pair(module, 100 * seed + number)
        state |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
        if dora:
            norm = module.weight.detach().flatten(1).norm(dim=1)
            magnitude = norm * torch.linspace(0.8, 1.2, norm.numel())
            across = magnitude.view(1, -1, 1, 1) if module.weight.ndim == 4 else magnitude
            state[f"unet.{name}.lora_magnitude_vector"] = across.contiguous()
    header = {"unet.r": RANK, "unet.lora_alpha": ALPHA, "unet.target_modules": UNET, "unet.use_dora": dora}
    header |= {f"unet.{name}": value for name, value in settings.items()}
    save_file(state, path, {METADATA_KEY: json.dumps(header)})
    return path


def kohya(path: Path, parts: dict[str, Any], *, seed: int = 2) -> Path:
    """As kohya's scripts write it for SDXL: with the names of the original network, and alphas."""
    state: dict[str, torch.Tensor] = {}
    named = {f"lora_unet_{name}": _module(parts["unet"], module) for name, module in KOHYA.items()}
    for part in ("text_encoder", "text_encoder_2"):
        short = "te1" if part == "text_encoder" else "te2"
        named |= {f"lora_{short}_text_model_{name.replace('.', '_')}": _module(parts[part], name) for name in TEXT}
    for number, (name, module) in enumerate(named.items()):
        down, up = _pair(module, 100 * seed + number)
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        state[f"{name}.alpha"] = torch.tensor(ALPHA)
    save_file(state, path)
    return path


def old_diffusers(path: Path, parts: dict[str, Any], *, seed: int = 3) -> Path:
    """As diffusers wrote it before peft, for attention of the UNet."""
    state: dict[str, torch.Tensor] = {}
    for number, name in enumerate(name for name in UNET if ".attn" in name):
        down, up = _pair(_module(parts["unet"], name), 100 * seed + number)
        block, _, side = name.removesuffix(".0").rpartition(".")
        key = f"unet.{block}.processor.{side}_lora"
        state |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    save_file(state, path)
    return path
