"""Whether the configurations of a model's networks go together, as the engine puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.checkpoints.kinds import Kind
from pipeline.checkpoints.matching import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE
from pipeline.errors import BadCheckpoint

# Numbers of micro-conditioning: original size, crop and target size; the refiner has an aesthetic score for the last.
TIME_IDS = {Kind.BASE: 6, Kind.REFINER: 5}
FACTOR = 8  # pixels along one side of a latent element
LATENT_CHANNELS = 4


def check_together(name: str, configs: Mapping[str, Mapping[str, Any]], kind: Kind) -> None:
    """Raises BadCheckpoint: the UNet, the VAE and the text encoders are not of one model."""
    unet, vae = configs[UNET], configs.get(VAE)
    if vae is not None:
        _check_vae(name, unet, vae)
    encoders = [configs[part] for part in (TEXT_ENCODER, TEXT_ENCODER_2) if part in configs]
    width = sum(int(encoder["hidden_size"]) for encoder in encoders)
    if width != unet["cross_attention_dim"]:
        raise BadCheckpoint(
            f"{name}: the UNet reads text of width {unet['cross_attention_dim']}, and its text encoders give {width}; "
            "they are not of one model"
        )
    if unet.get("addition_embed_type") == "text_time":
        pooled = int(configs[TEXT_ENCODER_2]["projection_dim"])
        given = pooled + TIME_IDS[kind] * int(unet.get("addition_time_embed_dim") or 0)
        taken = unet["projection_class_embeddings_input_dim"]
        if given != taken:
            raise BadCheckpoint(
                f"{name}: the UNet takes {taken} numbers of pooled text and sizes, and {given} come ({pooled} and "
                f"{TIME_IDS[kind]} sizes); SDXL's {kind} model wanted"
            )
    for part in (UNET, VAE):
        config = configs.get(part, unet)
        groups = int(config.get("norm_num_groups") or 32)
        if odd := [one for one in config["block_out_channels"] if one % groups]:
            raise BadCheckpoint(f"{name}: the {part}'s width {odd[0]} is no multiple of its {groups} norm groups")


def inpaints(unet: Mapping[str, Any]) -> bool:
    """Whether a UNet of this configuration reads, beside a latent, a mask and the latent of what is around it."""
    return bool(unet.get("in_channels") == 2 * unet.get("out_channels", 0) + 1)


def _check_vae(name: str, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    taken, given, latent = unet.get("in_channels"), unet.get("out_channels"), vae.get("latent_channels")
    if given != latent or not (taken == given or inpaints(unet)):
        raise BadCheckpoint(
            f"{name}: the UNet takes {taken} channels and gives {given}, the VAE's latents have {latent}; equal "
            "numbers wanted, or to be taken one more than twice as many (inpainting)"
        )
    smaller = 1 << (len(vae["block_out_channels"]) - 1)
    if FACTOR % smaller:
        raise BadCheckpoint(
            f"{name}: the VAE's latents are {smaller} times smaller than its pixels; at most {FACTOR} wanted"
        )
