"""LoRA weights fused into the model's own, and taken out again bit for bit.

The split layers read the weights of diffusers' modules at every call, so fusing in place holds for them too. Files are
safetensors as diffusers and peft write them, or as kohya's scripts do; diffusers' own converter reads the latter.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from distri.model.model import Model
from distri.model.originals import Originals
from distri.ranks import p2p
from distri.ranks.errors import BadLora
from distri.ranks.mesh import Mesh

METADATA_KEY = "lora_adapter_metadata"  # where diffusers keeps peft's settings in a file's header

# How diffusers' formats end the name of a weight, after that of its module.
_DOWN = (".lora_A.weight", ".lora.down.weight", "_lora.down.weight", ".lora_linear_layer.down.weight")
_UP = (".lora_B.weight", ".lora.up.weight", "_lora.up.weight", ".lora_linear_layer.up.weight")

# Names that are not those of the modules: of older diffusers files, and of text encoders in transformers before 5.
_RENAMED = (
    (".processor.", "."),
    *((f".self_attn.to_{short}", f".self_attn.{short}_proj") for short in ("q", "k", "v", "out")),
)


@dataclass(frozen=True)
class Lora:
    """One LoRA of an image; several are added up.

    Attributes:
        path: a safetensors file.
        scale: of its weights.
        sha256: of the file, in hexadecimal, if that is to be checked.
    """

    path: Path
    scale: float = 1.0
    sha256: str | None = None


@dataclass(frozen=True)
class _Delta:
    """What a LoRA adds to one weight: `scale` x up x down."""

    up: Tensor
    down: Tensor
    scale: float


class FusedLoras:
    """The LoRAs that are fused into a model now. All ranks of a replica use it together, with equal arguments.

    Args:
        model: its UNet and text encoders are changed in place; nobody else may change them.
        mesh: whose ranks must agree that all of them can read a file.
    """

    def __init__(self, model: Model, mesh: Mesh) -> None:
        self._parts: dict[str, nn.Module] = {
            "unet": model.unet,
            "text_encoder": model.text_encoders[0],
            "text_encoder_2": model.text_encoders[1],
        }
        self._mesh = mesh
        self._loras: tuple[Lora, ...] = ()
        self._originals = Originals(mesh.replica)

    def holds(self, loras: Sequence[Lora]) -> bool:
        """Whether the model holds exactly these."""
        return tuple(loras) == self._loras

    def set(self, loras: Sequence[Lora]) -> None:
        """Fuse exactly these; those of the image before are taken out first. Blocks if they differ.

        The originals of what is changed are kept, so that taking out is exact in every dtype; weights stay where they
        are in memory.

        Raises:
            BadLora: on all ranks; the model then has no LoRA.
        """
        if self.holds(loras):
            return
        self._originals.restore()
        self._loras = ()
        problem: BadLora | None = None
        deltas: list[tuple[Tensor, _Delta]] = []
        try:
            for lora in loras:
                deltas += self._read(lora)
        except BadLora as error:
            problem = error
        if not p2p.all_agree(self._mesh, self._mesh.replica, problem is None):
            raise problem or BadLora("a LoRA", "another rank cannot use it")
        self._originals.keep(list(dict.fromkeys(weight for weight, _ in deltas)))
        for weight, summed in _summed(deltas):
            weight.copy_(weight.float() + summed.view(weight.shape))
        self._loras = tuple(loras)

    def _read(self, lora: Lora) -> list[tuple[Tensor, _Delta]]:
        state, metadata = _read_file(lora)
        weights = {name: _weights_of(part) for name, part in self._parts.items()}
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in _converted(state, self._parts["unet"], lora.path.name).items():
            module, side = _parsed(key)
            found.setdefault(module, {})[side] = tensor
        deltas, unknown = [], []
        for module, sides in found.items():
            part, _, name = module.partition(".")
            weight = weights.get(part, {}).get(name)
            if weight is None or sides.keys() != {"up", "down"}:
                unknown.append(module)
                continue
            up, down = sides["up"], sides["down"]
            if not _fits(up, down, weight):
                raise BadLora(
                    lora.path.name,
                    f"{module} has weights of {tuple(up.shape)} and {tuple(down.shape)}, which do not fit the model's "
                    f"{tuple(weight.shape)}: it was made for another kind of model",
                )
            deltas.append((weight, _Delta(up, down, lora.scale * _scaling(metadata, part, name, down.shape[0]))))
        if unknown or not deltas:
            some = ", ".join(sorted(unknown)[:3]) or "no LoRA weights at all"
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise BadLora(lora.path.name, f"found {some}{more}, which this model has no weights for")
        return deltas


def _read_file(lora: Lora) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and peft's settings of a file; the header is read, not the file's name."""
    try:
        if lora.sha256 is not None:
            with lora.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != lora.sha256.lower():
                raise BadLora(lora.path.name, f"its SHA-256 is {found}, {lora.sha256} was wanted")
        with safe_open(lora.path, framework="pt") as content:
            state = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 - it is no mapping
            metadata = json.loads((content.metadata() or {}).get(METADATA_KEY, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise BadLora(lora.path.name, f"it cannot be read as safetensors: {error}") from error
    if any("dora_scale" in key or "lora_magnitude_vector" in key for key in state):
        raise BadLora(lora.path.name, "it is a DoRA; only LoRA is known")
    return state, metadata


def _converted(state: dict[str, Tensor], unet: Any, name: str) -> dict[str, Tensor]:
    """Tensors by diffusers' names: the part, a dot and the rest. Kohya's alphas are multiplied in."""
    for key in [key for key in state if key.endswith(".alpha")]:
        alpha, module = state.pop(key), key.removesuffix(".alpha")
        down = next((state[one] for end in (".lora_down.weight", *_DOWN) if (one := module + end) in state), None)
        up = next((one for end in (".lora_up.weight", *_UP) if (one := module + end) in state), None)
        if down is None or up is None:
            raise BadLora(name, f"{key} has no weights beside it")
        state[up] = state[up].float() * (float(alpha) / down.shape[0])
    try:
        converted, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(state, unet_config=unet.config)
    except (ValueError, KeyError, IndexError) as error:
        raise BadLora(name, f"diffusers cannot convert it: {str(error).strip()[:300]}") from error
    return dict(converted)


def _parsed(key: str) -> tuple[str, str]:
    """The module that a tensor belongs to, with its part before it, and which side it is."""
    for side, ends in (("down", _DOWN), ("up", _UP)):
        for end in ends:
            if key.endswith(end):
                return _module(key.removesuffix(end)), side
    return key, "neither"


def _module(name: str) -> str:
    for old, new in _RENAMED:
        name = name.replace(old, new)
    if name.startswith("unet.") and name.endswith(".to_out"):
        name += ".0"
    part, _, rest = name.partition(".")
    return f"{part}.{rest.removeprefix('text_model.')}"


def _weights_of(part: nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix("text_model."): module.weight
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def _fits(up: Tensor, down: Tensor, weight: Tensor) -> bool:
    if up.ndim < 2 or down.ndim < 2 or up.flatten(1).shape[1] != down.shape[0]:
        return False
    return up.shape[0] == weight.shape[0] and down.flatten(1).shape[1] == weight.flatten(1).shape[1]


def _scaling(metadata: Mapping[str, Any], part: str, name: str, rank: int) -> float:
    """Alpha over rank by peft's settings; 1 where a file has none."""
    if f"{part}.lora_alpha" not in metadata:
        return 1.0
    patterns = metadata.get(f"{part}.alpha_pattern") or {}
    alpha = next((value for key, value in patterns.items() if name.endswith(key)), metadata[f"{part}.lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if metadata.get(f"{part}.use_rslora") else rank)


def _summed(deltas: Sequence[tuple[Tensor, _Delta]]) -> Iterator[tuple[Tensor, Tensor]]:
    """What each weight gains in all, in float32 on its device; one at a time, since together they are a model."""
    by_weight: dict[Tensor, list[_Delta]] = {}
    for weight, delta in deltas:
        by_weight.setdefault(weight, []).append(delta)
    for weight, own in by_weight.items():
        total = torch.zeros(weight.shape[0], weight.flatten(1).shape[1], device=weight.device)
        for delta in own:
            up, down = (side.to(weight.device, torch.float32).flatten(1) for side in (delta.up, delta.down))
            total += delta.scale * (up @ down)
        yield weight, total
