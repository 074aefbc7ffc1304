"""Which model a file holds, from the names and shapes of its tensors: SDXL's base or refiner, or what else, by name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pipeline.checkpoints.header import StoredTensor
from pipeline.errors import BadCheckpoint

Tensors = Mapping[str, StoredTensor]


class Kind(StrEnum):
    """Of SDXL's two models."""

    BASE = "base"
    REFINER = "refiner"


# What a name in a file gives away, in the order in which it is asked.
_BY_NAME = (
    (
        (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".hada_w1_a", ".lokr_w1", "lora_unet_"),
        "a LoRA or its like; \
it belongs into TESSERA_LORAS, beside a model",
    ),
    (("control_model.", "controlnet_cond_embedding.", "controlnet_blocks."), "a ControlNet"),
    (("double_blocks.0.", "single_transformer_blocks.0."), "a Flux model"),
    (("joint_blocks.0.",), "a Stable Diffusion 3 model"),
    (("motion_modules.",), "an AnimateDiff model"),
    (("clip_txt_mapper.", ".channelwise."), "a Stable Cascade model"),
    (("cap_embedder.", "caption_projection.", "patch_embedding."), "a diffusion transformer"),
    (("edm_mean", "edm_vpred.sigma_max"), "an EDM model (Playground 2.5, CosXL), whose noise levels are not SDXL's"),
    (
        ("time_embedding.cond_proj.", "time_embed.cond_proj."),
        "an LCM of its own UNet, which has guidance as an input; an SDXL model with the LCM LoRA paints as fast",
    ),
    (("encoder_hid_proj.",), "a Kolors model, or one like it, which reads text by another encoder"),
    (("image_encoder.", "ip_adapter.", "image_proj."), "an IP-Adapter"),
)
_IN_CHANNELS = {8: "an image-editing model (InstructPix2Pix)", 5: "a depth model"}
_BY_TEXT_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
_KINDS = {2048: Kind.BASE, 1280: Kind.REFINER}

WANTED = "an SDXL checkpoint wanted"


def kind_of(tensors: Tensors, name: str, *, of_any_size: bool = False) -> Kind:
    """Which of SDXL's models the UNet among these tensors is.

    Args:
        tensors: of the file.
        name: of the file, for messages.
        of_any_size: a configuration is named that says what the UNet is; then only what is clearly another is refused.

    Raises:
        BadCheckpoint: it is another model, or no model that renders.
    """
    for marks, what in _BY_NAME:
        if any(mark in key for key in tensors for mark in marks):
            raise BadCheckpoint(f"{name} is {what}; {WANTED}")
    first = _first_convolution(tensors)
    if first is None or not _is_unet(tensors):
        raise BadCheckpoint(f"{name} has no UNet: {_without_unet(tensors)}; {WANTED}")
    if len(first) == 4 and first[1] in _IN_CHANNELS:
        raise BadCheckpoint(
            f"{name} is {_IN_CHANNELS[first[1]]}: its UNet takes {first[1]} channels; 4 wanted, or 9 of a model for "
            f"inpainting; {WANTED}"
        )
    text = _shape(tensors, (".attn2.to_k.weight",))
    width = text[-1] if text else None
    if of_any_size:
        return Kind.BASE
    if width in _BY_TEXT_WIDTH:
        raise BadCheckpoint(
            f"{name} is a {_BY_TEXT_WIDTH[width]} model (its UNet reads text of width {width}); {WANTED}"
        )
    if width not in _KINDS:
        raise BadCheckpoint(
            f"{name}: its UNet reads text of width {width}; 2048 is SDXL's base model and 1280 its refiner. A model of "
            "another size needs `config`, a folder with its configuration"
        )
    return _KINDS[width]


def in_channels(tensors: Tensors) -> int | None:
    """What the UNet among these tensors reads an element of the latent; None if there is none."""
    first = _first_convolution(tensors)
    return first[1] if first is not None and len(first) == 4 else None


def _first_convolution(tensors: Tensors) -> tuple[int, ...] | None:
    return _shape(tensors, ("input_blocks.0.0.weight", "conv_in.weight"))


def _is_unet(tensors: Tensors) -> bool:
    return any("time_embed.0.weight" in key or "time_embedding.linear_1.weight" in key for key in tensors)


def _shape(tensors: Tensors, ends: tuple[str, ...]) -> tuple[int, ...] | None:
    """Of the first tensor with one of these ends that is not the VAE's."""
    return next(
        (
            tensor.shape
            for key, tensor in tensors.items()
            if key.endswith(ends) and not key.startswith(("first_stage_model.", "vae.", "encoder.", "decoder."))
        ),
        None,
    )


def _without_unet(tensors: Tensors) -> str:
    if any(key.endswith("decoder.conv_in.weight") for key in tensors):
        return "it is a VAE alone, which belongs beside a model, as its `vae`"
    if any("token_embedding.weight" in key for key in tensors):
        return "it holds text encoders alone, which belong beside a model, as its `text_encoders`"
    if tensors and all(key in ("clip_l", "clip_g", "emb_params") for key in tensors):
        return "it is an embedding (textual inversion)"
    first = ", ".join(sorted(tensors)[:3])[:200]
    return f"it holds {len(tensors)} tensors ({first})" if tensors else "it holds no tensors"
