"""A network's tensors found in files: each in its place, of its shape and of a type that can be read, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoints import original
from pipeline.checkpoints.header import Header, StoredTensor
from pipeline.checkpoints.networks import Config, Shapes, text_encoder_tensors, unet_tensors, vae_tensors
from pipeline.checkpoints.original import Layout, Place
from pipeline.errors import BadCheckpoint

UNET, VAE, TEXT_ENCODER, TEXT_ENCODER_2 = "unet", "vae", "text_encoder", "text_encoder_2"

# Where a network may stand in a file: a prefix, and the layout behind it.
_LAYOUTS: dict[str, tuple[tuple[str, Layout], ...]] = {
    UNET: (
        ("model.diffusion_model.", original.original_unet),
        ("diffusion_model.", original.original_unet),
        ("", original.original_unet),
        ("", original.same),
        ("unet.", original.same),
    ),
    VAE: (
        ("first_stage_model.", original.original_vae),
        ("vae.", original.original_vae),
        ("", original.original_vae),
        ("", original.same),
        ("", original.old_vae),
        ("vae.", original.same),
    ),
    TEXT_ENCODER: (
        ("conditioner.embedders.0.transformer.", original.text_model),
        ("", original.text_model),
        ("", original.same),
        ("text_encoder.", original.text_model),
    ),
    TEXT_ENCODER_2: (
        ("conditioner.embedders.1.model.", original.open_clip),
        ("conditioner.embedders.0.model.", original.open_clip),
        ("", original.open_clip),
        ("", original.text_model),
        ("", original.same),
        ("text_encoder_2.", original.text_model),
    ),
}
# Standing in a file of its own, a text encoder has names that the other has as well.
_BESIDE_OTHERS = {name: tuple(pair for pair in pairs if pair[0]) for name, pairs in _LAYOUTS.items()}

FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
_SHOWN = 3


@dataclass(frozen=True)
class Stored:
    """Where one tensor of a network stands.

    Attributes:
        path: the file.
        place: in the file.
        shape: that the network wants; the file may have it with or without sides of 1 at its end.
        dtype: as safetensors names it.
        scale: key of the number that it is multiplied by, as ComfyUI stores scaled fp8; None is one.
    """

    path: Path
    place: Place
    shape: tuple[int, ...]
    dtype: str
    scale: str | None = None


@dataclass(frozen=True)
class Network:
    """A network of a model: its configuration, and where its tensors stand."""

    name: str
    config: Config
    tensors: Mapping[str, Stored]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The number formats that its tensors are stored in."""
        return tuple(sorted({stored.dtype for stored in self.tensors.values()}))


@dataclass(frozen=True)
class _Entry:
    path: Path
    tensor: StoredTensor


def wanted_tensors(name: str, config: Config) -> Shapes:
    """Names and shapes of a network's tensors. Raises BadCheckpoint."""
    if name == UNET:
        return unet_tensors(config)
    if name == VAE:
        return vae_tensors(config)
    return text_encoder_tensors(config, projected=name == TEXT_ENCODER_2)


def match(name: str, config: Config, headers: Sequence[Header], *, alone: bool, what: str) -> Network | None:
    """Find a network in files.

    Args:
        name: of the network.
        config: its configuration.
        headers: of the files that hold it, one or several shards.
        alone: whether they hold nothing else, so that names need no prefix.
        what: what the files are called in messages.

    Returns:
        The network, or None if none of its tensors are there.

    Raises:
        BadCheckpoint: some are there and others are missing, or are of another shape or type.
    """
    wanted = wanted_tensors(name, config)
    entries: dict[str, _Entry] = {}
    for header in headers:
        entries |= {key: _Entry(header.path, tensor) for key, tensor in header.tensors.items()}
    best: dict[str, Place] = {}
    found = 0
    for prefix, layout in _LAYOUTS[name] if alone else _BESIDE_OTHERS[name]:
        places = {tensor: _below(prefix, layout(tensor, config)) for tensor in wanted}
        there = sum(place.key in entries for place in places.values())
        if there > found:
            best, found = places, there
        if found == len(wanted):
            break
    if not found:
        return None
    missing = sorted(place.key for place in best.values() if place.key not in entries)
    if missing:
        raise BadCheckpoint(
            f"{what}: its {name} lacks {len(missing)} of {len(wanted)} tensors ({_some(missing)}); is it another "
            "model (SSD-1B, Vega), or was it cut?"
        )
    tensors = {}
    for tensor, place in best.items():
        entry = entries[place.key]
        _check(entry.tensor, place, wanted[tensor], what)
        tensors[tensor] = Stored(
            entry.path, place, wanted[tensor], entry.tensor.dtype, _scale(place.key, entry.tensor, entries, what)
        )
    return Network(name, config, tensors)


def surplus(headers: Iterable[Header], networks: Iterable[Network]) -> list[str]:
    """Names in these files that no network reads, less those that are known to mean nothing for rendering."""
    used = {stored.place.key for network in networks for stored in network.tensors.values()}
    scales = {stored.scale for network in networks for stored in network.tensors.values()}
    names = {key for header in headers for key in header.tensors}
    return sorted(key for key in names - used - scales if not _idle(key))


def _idle(key: str) -> bool:
    """Whether a tensor is there in many files and means nothing: constants, what training keeps, marks."""
    last = key.rsplit(".", 1)[-1]
    return (
        last in ("position_ids", "logit_scale", "scale_input", "input_scale", "comfy_quant", "scaled_fp8")
        or key in ("v_pred", "ztsnr", "model_ema.decay", "model_ema.num_updates")
        or key.startswith(("denoiser.sigmas", "denoiser.log_sigmas", "betas", "alphas_cumprod", "model_ema."))
    )


def _below(prefix: str, place: Place) -> Place:
    return Place(prefix + place.key, place.third, place.transposed)


def _check(stored: StoredTensor, place: Place, wanted: tuple[int, ...], what: str) -> None:
    shape = wanted[::-1] if place.transposed else wanted
    if place.third is not None:
        shape = (3 * shape[0], *shape[1:])
    if _bare(stored.shape) != _bare(shape):
        raise BadCheckpoint(
            f"{what}: {place.key} has the shape {list(stored.shape)}; {list(shape)} wanted. Is it another model, or of "
            "another size?"
        )
    if stored.dtype not in FLOATS:
        raise BadCheckpoint(
            f"{what}: {place.key} is stored as {stored.dtype}, quantised; float32, float16, bfloat16 or fp8 wanted"
        )


def _scale(key: str, stored: StoredTensor, entries: Mapping[str, _Entry], what: str) -> str | None:
    """The scale of a tensor that ComfyUI stored as scaled fp8."""
    if not key.endswith(".weight"):
        return None
    names = (f"{key.removesuffix('.weight')}.scale_weight", f"{key}_scale")
    scale = next((name for name in names if name in entries), None)
    if scale is None:
        return None
    shape = entries[scale].tensor.shape
    if stored.dtype not in FP8 or _bare(shape) not in ((), _bare(stored.shape[:1])):
        raise BadCheckpoint(
            f"{what}: {key} is stored as {stored.dtype} with a scale of shape {list(shape)}; only fp8 with one scale a "
            "tensor or a row is known"
        )
    return scale


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without sides of 1 at its end: a convolution over one pixel is a linear layer."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:120] for name in names[:_SHOWN]) + more
