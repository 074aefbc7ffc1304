"""For which base model a LoRA file was made, from its tensors' names and shapes and from its header's metadata.

What the shapes say outranks the metadata: a cross-attention's keys have as many inputs as the text that they read has
numbers a token, and that differs between the bases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pipeline.loras.names import split_key

SDXL = "SDXL"
BY_TEXT_WIDTH = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: SDXL}

# Names of modules that only one base has; the first that is found decides.
_BY_NAME = (
    (r"(double|single)_blocks[._]\d|single_transformer_blocks[._]\d", "Flux"),
    (r"joint_blocks[._]\d|lora_te3_|text_encoder_3|attn[._]add_[qkv]_proj", "SD 3"),
    (r"lora_prior_|prior_unet", "Stable Cascade"),
    (r"(double|single)_stream_blocks[._]\d", "HiDream"),
    (r"distilled_guidance_layer", "Chroma"),
    (r"(^|(diffusion_model|lora_unet|transformer)[._])blocks[._]\d+[._](cross_attn|self_attn)", "Wan"),
    (r"(diffusion_model|lora_unet|transformer)[._](layers|noise_refiner|context_refiner)[._]\d", "Lumina"),
    (
        r"(transformer[._]|lora_unet_|diffusion_model[._]|^)transformer_blocks[._]\d|lora_transformer_",
        "a diffusion transformer",
    ),
    (r"temporal_transformer|motion_modules", "AnimateDiff's motion modules"),
)
_BY_METADATA = (
    (r"refiner", "the SDXL refiner"),
    (r"sd_?xl|stable-diffusion-xl|pony|illustrious|noobai", SDXL),
    (r"flux", "Flux"),
    (r"sd_?3|stable-diffusion-3", "SD 3"),
    (r"sd_?v?2|stable-diffusion-v2|stable-diffusion-2", "SD 2.x"),
    (r"sd_?v?1|stable-diffusion-v1|stable-diffusion-1", "SD 1.x"),
    (r"wan", "Wan"),
    (r"cascade", "Stable Cascade"),
    (r"lumina", "Lumina"),
    (r"hunyuan", "Hunyuan"),
)
_CROSS_ATTENTION = re.compile(r"attn2[._](?:processor[._])?to_[kv](?:_lora)?$")
# What a file is instead of a LoRA, by names of which all or one are there.
_INSTEAD = (
    (r"ip_adapter\.|image_proj\.", "an IP-Adapter"),
    (r"control_model\.|controlnet_cond_embedding\.|input_hint_block\.", "a ControlNet"),
    (r"^(clip_l|clip_g|emb_params|string_to_param)", "an embedding, which TESSERA_EMBEDDINGS lists"),
    (r"^(model\.diffusion_model|conditioner|cond_stage_model)\.", "a whole checkpoint, which TESSERA_MODELS lists"),
    (r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid|up|down)", "a VAE, which belongs beside a model"),
)
_INPUTS = ("down", "hada_w1_b", "diff", "lokr_w1", "lokr_w2", "lokr_w1_b", "lokr_w2_b")


def text_width(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Numbers a token of the text that the file's cross-attention reads; None if it has none that says so."""
    of_kron: dict[str, list[int]] = {}
    for key, shape in shapes.items():
        module, side = split_key(key)
        if side not in _INPUTS or len(shape) < 2 or not _CROSS_ATTENTION.search(module):
            continue
        if not side.startswith("lokr"):
            return shape[1]
        widths = of_kron.setdefault(module, [])
        widths.append(shape[1])
        if len(widths) == 2:
            return widths[0] * widths[1]
    return None


def base_by_names(keys: Iterable[str]) -> str | None:
    """The base that alone has such modules; None if the names do not tell, as those of SD 1.x, 2.x and SDXL do not."""
    for key in keys:
        for pattern, base in _BY_NAME:
            if re.search(pattern, key):
                return base
    return None


def instead_of_lora(keys: Iterable[str]) -> str | None:
    """What a file without a single layer of a LoRA is; None if it is not known."""
    return next((what for key in keys for pattern, what in _INSTEAD if re.search(pattern, key)), None)


def base_by_metadata(metadata: Mapping[str, str]) -> str | None:
    """The base that the trainer wrote down: kohya's and OneTrainer's keys."""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        said = metadata.get(key, "").lower()
        for pattern, base in _BY_METADATA:
            if re.search(pattern, said):
                return base
    return None


def base_of_embedding(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Likewise of a textual inversion: of one tensor, whose vectors have the width of the base's only encoder.

    Those of SD 1.x fit SDXL's first encoder, and are used there.
    """
    widths = [shape[-1] for shape in shapes.values() if len(shape) in (1, 2)]
    return BY_TEXT_WIDTH[1024] if widths == [1024] and len(shapes) == 1 else None


def base_of_network(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Likewise of a control network or an IP-Adapter: its cross-attention reads text, or tokens, as its base does."""
    keys = ("attn2.to_k.weight", ".to_k_ip.weight")
    widths = {shape[1] for key, shape in shapes.items() if key.endswith(keys) and len(shape) == 2}
    return BY_TEXT_WIDTH.get(widths.pop()) if len(widths) == 1 else None


def base_of(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str | None:
    """The base that a file was made for, as users call it; None if it does not tell."""
    width = text_width(shapes)
    if width in BY_TEXT_WIDTH:
        return BY_TEXT_WIDTH[width]
    return base_by_names(shapes) or base_by_metadata(metadata)
