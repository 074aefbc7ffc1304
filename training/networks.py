"""The four networks and the tokenizers: SDXL's architecture, narrow enough for 24 MB in half precision."""

from __future__ import annotations

from random import Random
from typing import Any

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from distri.demo_model import CONTEXT_TOKENS, END, START, byte_pairs
from training import first_weights
from training.scenes import caption, drawn

TEXT_WIDTHS = (64, 128)
SIZE_WIDTH = 32  # of each of the six numbers of the micro-conditioning
# What a user may type beside the words of captions.
OTHER_WORDS = (
    """
a photo of the painting drawing illustration poster watercolor style beautiful detailed landscape scenery night day
morning evening light dark bright colorful people text blur blurry low quality ugly watermark noise
"""
    * 4
)

# SDXL's, but with more noise at the end: with its 0.012 the mean of the noise would still tell the colour of a picture,
# and the first noise drawn would outvote the prompt's words (Lin et al. 2024).
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
}


def tokenizers() -> tuple[Any, Any]:
    """One for each text encoder; any text is made of its bytes at worst, and a caption's words are one token each."""
    lines = [caption(drawn(seed), Random(seed)).replace(",", " ,") for seed in range(600)]
    vocabulary, merges = byte_pairs("\n".join([*lines, OTHER_WORDS]), 1000)
    kind: Any = CLIPTokenizer
    first, second = (
        kind(vocab=vocabulary, merges=merges, unk_token=END, bos_token=START, eos_token=END, pad_token=padding,
             model_max_length=CONTEXT_TOKENS)
        for padding in (END, "!")
    )  # fmt: skip
    return first, second


def text_encoders(tokenizer: Any) -> tuple[Any, Any]:
    """Two narrow CLIP text models; SDXL reads their last but one layer, and the second's projection."""
    first, second = (
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=CONTEXT_TOKENS,
            hidden_act=activation,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        for width, layers, activation in zip(TEXT_WIDTHS, (2, 3), ("quick_gelu", "gelu"), strict=True)
    )
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)


def unet() -> Any:
    """Three levels as SDXL's: the first without attention, the others with cross-attention; text and time embedded."""
    kind: Any = UNet2DConditionModel
    return kind(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(2, 4, 5),
        cross_attention_dim=sum(TEXT_WIDTHS),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_WIDTH,
        projection_class_embeddings_input_dim=6 * SIZE_WIDTH + TEXT_WIDTHS[1],
    )


def vae() -> Any:
    """Factor 8, four latent channels; narrow where the pictures are large.

    Before training it gives back the mean colours of blocks, see `first_weights`.
    """
    kind: Any = AutoencoderKL
    network = kind(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        norm_num_groups=1,  # a group must hold enough channels to keep the colour of a crop that is flat
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=256,
        scaling_factor=1.0,
        force_upcast=True,
    )
    first_weights.pass_mean_colours(network)
    return network


def noise_schedule() -> Any:
    """The noise levels; the network predicts velocity, which stays well-conditioned where all is noise."""
    kind: Any = DDPMScheduler
    return kind(**SCHEDULE)
