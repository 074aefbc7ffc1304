"""An SDXL pipeline directory, as diffusers writes it, loaded from local safetensors files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from distri.model.schedulers import SchedulerRecipe
from distri.model.stages import FACTOR
from distri.ranks.device_errors import raise_device_failures
from distri.ranks.errors import ModelError

TIME_IDS = 6  # original size, crop and target size, two numbers each
FEWEST_TOKENS = 100  # a tokenizer loaded from the wrong files has two; CLIP's has 49408

TOKENIZERS = ("tokenizer", "tokenizer_2")
NETWORKS: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
ENCODERS = (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))


@dataclass(frozen=True)
class Model:
    """The parts of an SDXL pipeline.

    Attributes:
        unet: in the dtype asked for.
        vae: best in float32: SDXL's own overflows in float16, and is then computed again in float32.
        tokenizers, text_encoders: two each, in SDXL's order.
        scheduler: the recipe of the model's own.
        zeros_for_none: whether a missing negative prompt means zeroed embeddings (SDXL base) or the empty text.
    """

    unet: Any
    vae: Any
    tokenizers: tuple[Any, ...]
    text_encoders: tuple[Any, ...]
    scheduler: SchedulerRecipe
    zeros_for_none: bool


def load(directory: Path, *, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype = torch.float32) -> Model:
    """Load a pipeline for inference. No network, no pickled weights, no code from the directory.

    Args:
        directory: holds model_index.json and one folder per part.
        device: where all parts go.
        dtype: of the UNet and the text encoders.
        vae_dtype: of the VAE.

    Raises:
        ModelError: something is missing, is not safetensors, or is not SDXL.
        OutOfMemory: it does not fit into memory.
    """
    index = _json(directory / "model_index.json")
    found = index.get("_class_name")
    if found != "StableDiffusionXLPipeline":
        raise ModelError(f"{directory.name}: found a {found}, wanted a StableDiffusionXLPipeline")
    try:
        with raise_device_failures():
            unet = NETWORKS["unet"].from_pretrained(
                directory, subfolder="unet", torch_dtype=dtype, use_safetensors=True, local_files_only=True
            )
            vae = NETWORKS["vae"].from_pretrained(
                directory, subfolder="vae", torch_dtype=vae_dtype, use_safetensors=True, local_files_only=True
            )
            encoders = [
                kind.from_pretrained(directory / name, dtype=dtype, use_safetensors=True, local_files_only=True)
                for name, kind in ENCODERS
            ]
            tokenizers = [CLIPTokenizer.from_pretrained(directory / name, local_files_only=True) for name in TOKENIZERS]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{directory.name}: {error}") from error
    for name, tokenizer in zip(TOKENIZERS, tokenizers, strict=True):
        _check_tokenizer(name, tokenizer)
    config = _json(directory / "scheduler" / "scheduler_config.json")
    for part in (unet, vae, *encoders):
        part.to(device).eval().requires_grad_(False)
    return Model(
        unet,
        vae,
        tuple(tokenizers),
        tuple(encoders),
        SchedulerRecipe(str(config["_class_name"]), config),
        zeros_for_none=bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def of_pipeline(pipeline: Any) -> Model:
    """The parts of a live diffusers `StableDiffusionXLPipeline`, shared with it and not copied.

    LoRA weights that peft holds must have been fused; those that an image names are the engine's. While an engine has
    the networks split, the pipeline itself cannot be called. The UNet and the VAE may be of any width; the VAE is best
    in float32.
    """
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.eval().requires_grad_(False)
    return Model(
        pipeline.unet,
        pipeline.vae,
        (pipeline.tokenizer, pipeline.tokenizer_2),
        (pipeline.text_encoder, pipeline.text_encoder_2),
        SchedulerRecipe(type(pipeline.scheduler).__name__, dict(pipeline.scheduler.config)),
        zeros_for_none=bool(pipeline.config.force_zeros_for_empty_prompt),
    )


def check(model: Model) -> None:
    """Whether the parts go together as the engine puts them together. Raises ModelError."""
    unet, vae = model.unet.config, model.vae.config
    channels = (unet.in_channels, unet.out_channels, vae.latent_channels)
    if len(set(channels)) > 1:
        raise ModelError(
            f"the UNet takes {channels[0]} channels and gives {channels[1]}, the VAE's latents have {channels[2]}; "
            "equal numbers wanted (no inpainting, no refiner that takes more)"
        )
    smaller = 1 << (len(vae.block_out_channels) - 1)
    if FACTOR % smaller:
        raise ModelError(f"the VAE's latents are {smaller} times smaller than its pixels; at most {FACTOR} wanted")
    if unet.addition_embed_type == "text_time":
        pooled = model.text_encoders[-1].config.projection_dim
        given, taken = pooled + TIME_IDS * unet.addition_time_embed_dim, unet.projection_class_embeddings_input_dim
        if given != taken:
            raise ModelError(
                f"the UNet takes {taken} numbers of pooled text and sizes, and {given} come ({pooled} and {TIME_IDS} "
                "sizes); SDXL's base model wanted, not its refiner"
            )


def _check_tokenizer(name: str, tokenizer: Any) -> None:
    if len(tokenizer) < FEWEST_TOKENS:
        raise ModelError(
            f"{name}: found {len(tokenizer)} tokens, wanted at least {FEWEST_TOKENS}; its files do not fit"
        )
    if tokenizer.model_max_length > 10_000:
        raise ModelError(f"{name}: it names no model_max_length, wanted that of its text encoder (77 for CLIP)")
    ids = tokenizer("a").input_ids
    if ids[0] != tokenizer.bos_token_id or ids[-1] != tokenizer.eos_token_id or len(ids) < 3:
        raise ModelError(f"{name}: 'a' became {ids}, wanted it between a start and an end token")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} in {path.parent.name}: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path.name} in {path.parent.name}: found no JSON object")
    return content
