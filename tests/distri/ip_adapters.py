"""Small IP-Adapters with random weights, and an image encoder, as their authors lay their files out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from distri.model.reference.ip_adapter import IPAdapter
from distri.model.reference.references import ReferencePicture

ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "projection_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
HIDDEN, QUERIES = 64, 6


def write_encoder(folder: Path) -> Path:
    """A CLIP image encoder's folder."""
    torch.manual_seed(5)
    encoder: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**ENCODER))
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"} | ENCODER))
    save_file({key: value.contiguous() for key, value in encoder.state_dict().items()}, folder / "model.safetensors")
    return folder


def attention_weights(unet: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Projections of every cross-attention layer, counted as files count them."""
    layers = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    stored = {}
    for number, name in enumerate(layers):
        shape = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for letter in "kv":
            stored[f"ip_adapter.{2 * number + 1}.to_{letter}_ip.weight"] = torch.randn(shape, generator=generator) * 0.3
    return stored


def write_adapter(path: Path, unet: Any, encoder: Path, *, plus: bool = False, seed: int = 1) -> IPAdapter:
    """An adapter's file for a UNet."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    width = unet.config.cross_attention_dim
    if plus:
        projection = {
            "latents": random(1, QUERIES, HIDDEN),
            "proj_in.weight": random(HIDDEN, ENCODER["hidden_size"]),
            "proj_in.bias": random(HIDDEN),
            "proj_out.weight": random(width, HIDDEN),
            "proj_out.bias": random(width),
            "norm_out.weight": random(width),
            "norm_out.bias": random(width),
        }
        for layer in range(4):
            own = f"layers.{layer}."
            for norm in ("0.norm1", "0.norm2", "1.0"):
                projection |= {f"{own}{norm}.weight": random(HIDDEN), f"{own}{norm}.bias": random(HIDDEN)}
            projection |= {
                own + "0.to_q.weight": random(64, HIDDEN),
                own + "0.to_kv.weight": random(128, HIDDEN),
                own + "0.to_out.weight": random(HIDDEN, 64),
                own + "1.1.weight": random(4 * HIDDEN, HIDDEN),
                own + "1.3.weight": random(HIDDEN, 4 * HIDDEN),
            }
    else:
        projection = {
            "proj.weight": random(4 * width, ENCODER["projection_dim"]),
            "proj.bias": random(4 * width),
            "norm.weight": random(width),
            "norm.bias": random(width),
        }
    stored = {f"image_proj.{key}": value for key, value in projection.items()} | attention_weights(unet, generator)
    save_file({key: value.contiguous() for key, value in stored.items()}, path)
    return IPAdapter(path, encoder)


def parts_of(encoder: Path) -> dict[str, Any]:
    """Those that diffusers' pipelines have for it."""
    kind: Any = CLIPVisionModelWithProjection
    side = ENCODER["image_size"]
    return {
        "image_encoder": kind.from_pretrained(encoder, use_safetensors=True),
        "feature_extractor": CLIPImageProcessorPil(size=side, crop_size=side),
    }


def loaded_into(pipe: Any, references: Sequence[ReferencePicture], height: int, width: int) -> dict[str, Any]:
    """Load adapters into diffusers' pipeline; what it is to be called with for these references."""
    paths = [one.adapter.path for one in references]
    pipe.load_ip_adapter(
        [str(path.parent) for path in paths],
        subfolder=[""] * len(paths),
        weight_name=[path.name for path in paths],
        image_encoder_folder=None,
        low_cpu_mem_usage=False,
    )
    pipe.set_ip_adapter_scale([one.scale for one in references])
    given: dict[str, Any] = {
        "ip_adapter_image": [Image.fromarray(one.pixels) for one in references if one.pixels is not None]
    }
    if masks := [Image.fromarray(one.mask) for one in references if one.mask is not None]:
        processed = [IPAdapterMaskProcessor().preprocess(mask, height=height, width=width) for mask in masks]
        given["cross_attention_kwargs"] = {"ip_adapter_masks": processed}
    return given
