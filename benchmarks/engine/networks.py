"""The networks that are measured: diffusers UNets of SDXL's architecture with random weights."""

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from distri.layers.conditions import Conditions

TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 77, 256, 128


def speed_unet() -> Any:
    """Widths 64, 128, 256, two layers a block, transformer depths 1, 1, 2; float32."""
    torch.manual_seed(1)
    kind: Any = UNet2DConditionModel
    return (
        kind(
            in_channels=4,
            out_channels=4,
            block_out_channels=(64, 128, 256),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(2, 4, 8),
            cross_attention_dim=TEXT_WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=6 * 32 + POOLED_WIDTH,
        )
        .eval()
        .requires_grad_(False)
    )


def sdxl_unet() -> Any:
    """The UNet of SDXL base 1.0 by its published settings, on the meta device: shapes without numbers."""
    kind: Any = UNet2DConditionModel
    with torch.device("meta"):
        return kind(
            sample_size=128,
            in_channels=4,
            out_channels=4,
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + 1280,
        ).eval()


def sdxl_vae() -> Any:
    """The VAE of SDXL base 1.0 by its published settings, on the meta device."""
    kind: Any = AutoencoderKL
    with torch.device("meta"):
        return kind(**_vae_settings(128, 256, 512, 512)).eval()


def small_vae() -> Any:
    """The same with narrow blocks and random weights, float32."""
    kind: Any = AutoencoderKL
    return kind(**_vae_settings(32, 32, 64, 64)).eval().requires_grad_(False)


def _vae_settings(*widths: int) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "layers_per_block": 2,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "scaling_factor": 0.13025,
    }


def initialised(network: Any, device: torch.device) -> Any:
    """A network of the meta device with torch's own random weights, equal wherever the device is."""
    network = network.to_empty(device=device).requires_grad_(False)
    torch.manual_seed(1)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


def conditions(batch: int) -> Conditions:
    """Conditions of the speed UNet, the same on all ranks."""
    generator = torch.Generator().manual_seed(5)
    return Conditions(
        torch.randn((batch, TEXT_TOKENS, TEXT_WIDTH), generator=generator),
        torch.randn((batch, POOLED_WIDTH), generator=generator),
        torch.tensor([[512.0, 512.0, 0.0, 0.0, 512.0, 512.0]]).repeat(batch, 1),
    )
