"""Small diffusers networks of SDXL's architecture, equal wherever they are made."""

from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 7, 24, 16


def unet(dtype: torch.dtype = torch.float64, *, layers_per_block: int = 2) -> Any:
    """A UNet with two stride-2 layers and attention on the two lower levels."""
    torch.manual_seed(1)
    network: Any = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 24),
        layers_per_block=layers_per_block,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 2, 3),
        cross_attention_dim=TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + POOLED_WIDTH,
    )
    return network.to(dtype).eval().requires_grad_(False)


def controlnet(dtype: torch.dtype = torch.float64) -> Any:
    """A ControlNet for that UNet, which adds something."""
    network: Any = ControlNetModel.from_unet(unet(dtype))
    torch.manual_seed(3)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.to(dtype).eval().requires_grad_(False)


def vae(dtype: torch.dtype = torch.float64) -> Any:
    """A VAE of factor 8."""
    torch.manual_seed(2)
    network: Any = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.13025,
    )
    return network.to(dtype).eval().requires_grad_(False)


def seeded(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The same numbers on every rank."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    assert found.shape == wanted.shape
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())
