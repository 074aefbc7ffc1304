"""What a LoRA file is, from its header alone: for whom it was made, by what, and what SDXL would not use of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoints.checkpoint import shipped
from pipeline.checkpoints.control_files import base_of_adapter
from pipeline.checkpoints.hashes import Hashes, hashes_of
from pipeline.checkpoints.header import Header, read_header
from pipeline.checkpoints.kinds import Kind
from pipeline.checkpoints.networks import text_encoder_tensors, unet_tensors
from pipeline.loras.bases import SDXL, base_of, base_of_embedding, base_of_network, instead_of_lora
from pipeline.loras.kinds import AdapterKind, kind_of
from pipeline.loras.names import (
    BUNDLE,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    UNET,
    ModuleName,
    module_names,
    places,
    split_key,
)

Shape = tuple[int, ...]

# What trainers write into a header, and the one that does.
_TRAINERS = (
    ("ot_", "OneTrainer"),
    ("ss_network_module", "kohya's scripts"),
    ("lora_adapter_metadata", "diffusers and peft"),
    ("ss_", "kohya's scripts"),
)


@dataclass(frozen=True)
class LoraReport:
    """What a file holds.

    Attributes:
        path: of the file.
        size_bytes: of the file.
        hashes: of the file.
        base: the base model that it was made for; None if it does not tell.
        trainer: what made it, as its header says; None if it does not.
        layers: by part of the pipeline and kind, how many layers it changes.
        decomposed: how many of them are DoRA.
        ranks: how many layers have each rank.
        dtypes: of its tensors, as safetensors names them.
        unused: by reason, names of layers that SDXL would not use.
        embeddings: textual inversions that it brings along.
        instead: what it is if it is no LoRA; None if that is not known.
    """

    path: Path
    size_bytes: int
    hashes: Hashes
    base: str | None
    trainer: str | None
    layers: Mapping[str, Mapping[str, int]]
    decomposed: int
    ranks: Mapping[int, int]
    dtypes: tuple[str, ...]
    unused: Mapping[str, tuple[str, ...]]
    embeddings: tuple[str, ...]
    instead: str | None = None

    @property
    def refusal(self) -> str | None:
        """Why an SDXL model cannot use it; None if it can. Weights are not looked at, so NaN is not seen."""
        if self.base not in (None, SDXL):
            return f"it was made for {self.base}, not for SDXL"
        if self.layers:
            return None
        return f"it is {self.instead}" if self.instead else "nothing in it fits SDXL"


def report(path: Path) -> LoraReport:
    """Read a file's header, and the file once for its hashes. Raises BadCheckpoint: it is no safetensors file."""
    header = read_header(path)
    modules: dict[str, dict[str, Shape]] = {}
    embeddings = set()
    for key, tensor in header.tensors.items():
        if key.startswith(BUNDLE):
            embeddings.add(key.removeprefix(BUNDLE).split(".")[0])
            continue
        module, side = split_key(key)
        modules.setdefault(module, {})[side] = tensor.shape
    known, layers, ranks, unused, decomposed = _sdxl(), dict[str, Counter[str]](), Counter[int](), _Unused(), 0
    for module, sides in modules.items():
        found = next((place for place in places(module) if place in known), None)
        kind = kind_of(sides.keys())
        if found is None:
            unused.add("SDXL has no such layers", module)
        elif kind is None:
            unused.add("no known kind of LoRA, or not all of one", module)
        elif not _fits(kind, sides, known[found]):
            unused.add("their shapes are not SDXL's", module)
        else:
            layers.setdefault(found.part, Counter())[kind] += 1
            decomposed += bool(sides.keys() & {"dora_scale", "magnitude"})
            if (rank := _rank(sides)) is not None:
                ranks[rank] += 1
    return LoraReport(
        path=path,
        size_bytes=header.size_bytes,
        hashes=hashes_of(path),
        base=base_of({key: tensor.shape for key, tensor in header.tensors.items()}, header.metadata),
        trainer=_trainer(header),
        layers=layers,
        decomposed=decomposed,
        ranks=ranks,
        dtypes=tuple(sorted({tensor.dtype for tensor in header.tensors.values()})),
        unused=unused.names(),
        embeddings=tuple(sorted(embeddings)),
        instead=None if layers else instead_of_lora(header.tensors),
    )


def base_of_file(path: Path) -> str | None:
    """The base model that a LoRA, an embedding, a control network or an IP-Adapter is for; None if it does not tell.

    Raises BadCheckpoint.
    """
    header = read_header(path)
    shapes = {key: tensor.shape for key, tensor in header.tensors.items()}
    if (base := base_of_adapter(shapes)) is not None:
        return base
    return base_of_network(shapes) or base_of(shapes, header.metadata) or base_of_embedding(shapes)


class _Unused:
    def __init__(self) -> None:
        self._modules: dict[str, list[str]] = {}

    def add(self, reason: str, module: str) -> None:
        self._modules.setdefault(reason, []).append(module)

    def names(self) -> dict[str, tuple[str, ...]]:
        return {reason: tuple(sorted(modules)) for reason, modules in self._modules.items()}


def _sdxl() -> dict[ModuleName, Shape]:
    """The weights of SDXL's modules under all names that files give them."""
    configs = shipped(Kind.BASE)
    parts = {
        UNET: unet_tensors(configs["unet"]),
        TEXT_ENCODER: text_encoder_tensors(configs["text_encoder"], projected=False),
        TEXT_ENCODER_2: text_encoder_tensors(configs["text_encoder_2"], projected=True),
    }
    known = dict[ModuleName, Shape]()
    for part, tensors in parts.items():
        weights = {name.removesuffix(".weight"): shape for name, shape in tensors.items() if name.endswith(".weight")}
        known |= {place: weights[module] for place, module in module_names(part, weights).items()}
    return known


def _fits(kind: AdapterKind, sides: Mapping[str, Shape], weight: Shape) -> bool:
    if kind is AdapterKind.LORA:
        up, down = sides["up"], sides["down"]
        return len(up) > 1 and up[0] == weight[0] and math.prod(down[1:]) == math.prod(weight[1:]) and up[1] == down[0]
    if kind is AdapterKind.DIFF:
        return math.prod(sides["diff"]) == math.prod(weight)
    return True


def _rank(sides: Mapping[str, Shape]) -> int | None:
    found = next((sides[name] for name in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in sides), None)
    return found[0] if found else None


def _trainer(header: Header) -> str | None:
    module = header.metadata.get("ss_network_module", "")
    if "lycoris" in module:
        return "LyCORIS in kohya's scripts"
    return next((name for prefix, name in _TRAINERS if any(key.startswith(prefix) for key in header.metadata)), None)
