"""An SDXL model loaded from local safetensors files: a diffusers folder, or a single file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from distri.model.passes.latent_detail import LatentDetail
from distri.model.passes.stages import FACTOR
from distri.model.sampling.schedulers import SchedulerRecipe
from distri.model.weights import load_network, load_tokenizer
from distri.ranks.device_errors import raise_device_failures
from distri.ranks.errors import EngineError, ModelError, UnknownScheduler
from pipeline.checkpoints import clip
from pipeline.checkpoints.checkpoint import ModelFiles, open_checkpoint
from pipeline.checkpoints.consistency import inpaints
from pipeline.checkpoints.kinds import Kind
from pipeline.checkpoints.matching import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE
from pipeline.errors import BadCheckpoint

TIME_IDS = 6  # original size, crop and target size, two numbers each
FEWEST_TOKENS = 100  # a tokenizer loaded from the wrong files has two; CLIP's has 49408
TRIED_STEPS = 8  # of a model's own scheduler, when it is loaded

ENCODER_OF = {"tokenizer": TEXT_ENCODER, "tokenizer_2": TEXT_ENCODER_2}

# What diffusers, transformers and safetensors raise for files that are not what they claim to be.
_REFUSALS = (
    *(OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, ArithmeticError),
    SafetensorError,
)


@dataclass(frozen=True)
class Model:
    """The parts of an SDXL pipeline.

    Attributes:
        unet: in the dtype asked for.
        vae: best in float32: SDXL's own overflows in float16, and is then computed again in float32. A refiner, which
            gives latents to its base model's, has None.
        tokenizers, text_encoders: two each, in SDXL's order; of a refiner only the second.
        scheduler: the recipe of the model's own.
        zeros_for_none: whether a missing negative prompt means zeroed embeddings (SDXL base) or the empty text.
        notes: what a user may want to know of how its files were read.
        detail: of its latents, if that was measured.
    """

    unet: Any
    vae: Any
    tokenizers: tuple[Any, ...]
    text_encoders: tuple[Any, ...]
    scheduler: SchedulerRecipe
    zeros_for_none: bool
    notes: tuple[str, ...] = ()
    detail: LatentDetail | None = None

    @property
    def inpaints(self) -> bool:
        """Whether the UNet reads a mask and the latent of what is around it beside its own."""
        return inpaints(self.unet.config)


def load(
    source: Path | ModelFiles,
    *,
    device: torch.device,
    dtype: torch.dtype,
    vae_dtype: torch.dtype = torch.float32,
    kind: Kind = Kind.BASE,
) -> Model:
    """Load a model for inference. No network, no pickled weights, no code of its files.

    Args:
        source: a diffusers folder, a single file, or where the parts of a model lie.
        device: where all parts go.
        dtype: of the UNet and the text encoders.
        vae_dtype: of the VAE.
        kind: which of SDXL's models it must be.

    Raises:
        ModelError: something is missing, is not safetensors, or is not SDXL.
        OutOfMemory: it does not fit into memory.
    """
    files = ModelFiles(source) if isinstance(source, Path) else source
    name = files.path.name
    try:
        checkpoint = open_checkpoint(files, wanted=kind)
        with raise_device_failures():
            tokenizers = {part: load_tokenizer(part, folder) for part, folder in checkpoint.tokenizers.items()}
            for part, tokenizer in tokenizers.items():
                _check_tokenizer(part, tokenizer, checkpoint.networks[ENCODER_OF[part]].config)
            networks = {
                part: load_network(network, device=device, dtype=vae_dtype if part == VAE else dtype)
                for part, network in checkpoint.networks.items()
            }
    except BadCheckpoint as error:
        raise ModelError(str(error)) from error
    except EngineError:
        raise
    except _REFUSALS as error:
        raise ModelError(f"{name}: {type(error).__name__}: {error}") from error
    recipe = SchedulerRecipe(str(checkpoint.scheduler["_class_name"]), checkpoint.scheduler)
    try:
        recipe.try_out(None, {}, steps=TRIED_STEPS, strength=1.0)
    except UnknownScheduler as error:
        raise ModelError(f"{name}: its own {error}") from error
    encoders = [networks[part] for part in (TEXT_ENCODER, TEXT_ENCODER_2) if part in networks]
    return Model(
        networks[UNET],
        networks.get(VAE),
        tuple(tokenizers.values()),
        tuple(encoders),
        recipe,
        zeros_for_none=checkpoint.zeros_for_none,
        notes=checkpoint.notes,
        detail=LatentDetail.read(files.path, networks[UNET].config.out_channels),
    )


def of_pipeline(pipeline: Any) -> Model:
    """The parts of a live diffusers `StableDiffusionXLPipeline`, or of its refiner's, shared with it and not copied.

    LoRA weights that peft holds must have been fused; those that an image names are the engine's. While an engine has
    the networks split, the pipeline itself cannot be called. The UNet and the VAE may be of any width; the VAE is best
    in float32.
    """
    tokenizers = [one for one in (pipeline.tokenizer, pipeline.tokenizer_2) if one is not None]
    encoders = [one for one in (pipeline.text_encoder, pipeline.text_encoder_2) if one is not None]
    for part in (pipeline.unet, pipeline.vae, *encoders):
        part.eval().requires_grad_(False)
    return Model(
        pipeline.unet,
        pipeline.vae,
        tuple(tokenizers),
        tuple(encoders),
        SchedulerRecipe(type(pipeline.scheduler).__name__, dict(pipeline.scheduler.config)),
        zeros_for_none=bool(pipeline.config.force_zeros_for_empty_prompt),
    )


def check(model: Model) -> None:
    """Whether the parts go together as the engine puts them together. Raises ModelError."""
    unet, vae = model.unet.config, model.vae.config
    channels = (unet.in_channels, unet.out_channels, vae.latent_channels)
    if channels[1] != channels[2] or not (channels[0] == channels[1] or model.inpaints):
        raise ModelError(
            f"the UNet takes {channels[0]} channels and gives {channels[1]}, the VAE's latents have {channels[2]}; "
            "equal numbers wanted, or to be taken one more than twice as many (inpainting)"
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


def check_refiner(refiner: Model, base: Model) -> None:
    """Whether a refiner goes on from where a base model ends. Raises ModelError."""
    channels = (refiner.unet.config.in_channels, refiner.unet.config.out_channels, base.vae.config.latent_channels)
    if len(set(channels)) > 1:
        raise ModelError(
            f"the refiner takes {channels[0]} channels and gives {channels[1]}, the model's latents have "
            f"{channels[2]}; equal numbers wanted"
        )


def _check_tokenizer(name: str, tokenizer: Any, encoder: Mapping[str, Any]) -> None:
    if len(tokenizer) < FEWEST_TOKENS:
        raise ModelError(
            f"{name}: found {len(tokenizer)} tokens, wanted at least {FEWEST_TOKENS}; its files do not fit"
        )
    if tokenizer.model_max_length > 10_000:
        raise ModelError(f"{name}: it names no model_max_length, wanted that of its text encoder (77 for CLIP)")
    if len(tokenizer) > encoder["vocab_size"]:
        raise ModelError(
            f"{name}: found {len(tokenizer)} tokens, and its text encoder knows {encoder['vocab_size']}; they are not "
            "of one model"
        )
    if tokenizer.model_max_length > encoder.get("max_position_embeddings", clip.CONTEXT_TOKENS):
        raise ModelError(
            f"{name}: it gives {tokenizer.model_max_length} tokens, and its text encoder reads "
            f"{encoder.get('max_position_embeddings', clip.CONTEXT_TOKENS)}"
        )
    ids = tokenizer("a").input_ids
    if ids[0] != tokenizer.bos_token_id or ids[-1] != tokenizer.eos_token_id or len(ids) < 3:
        raise ModelError(f"{name}: 'a' became {ids}, wanted it between a start and an end token")
