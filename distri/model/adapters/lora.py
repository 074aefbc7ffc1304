"""LoRA weights fused into the model's own, and taken out again bit for bit.

The split layers read the weights of diffusers' modules at every call, so fusing in place holds for them too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distri.model.adapters.changes import Change
from distri.model.adapters.file import LoraFile, check_base, read_file
from distri.model.adapters.matching import BadNumber, Matches, Strength, Targets, matches
from distri.model.adapters.originals import Originals
from distri.model.adapters.scalings import BadPattern
from distri.model.model import Model
from distri.ranks import p2p
from distri.ranks.errors import BadLora
from distri.ranks.mesh import Mesh


@dataclass(frozen=True)
class Lora:
    """One LoRA of an image; several are added up.

    Attributes:
        path: a safetensors file.
        scale: of its weights.
        sha256: of the file, in hexadecimal, if that is to be checked.
        text_scale: of those for the text encoders; None is `scale`.
        blocks: by block of the UNet or part of the pipeline, what the scale is multiplied with there.
    """

    path: Path
    scale: float = 1.0
    sha256: str | None = None
    text_scale: float | None = None
    blocks: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class _Fused:
    """A file's changes of a weight or bias, with the file's name."""

    file: str
    weight: Tensor
    change: Change


class FusedLoras:
    """The LoRAs that are fused into a model now. All ranks of a replica use it together, with equal arguments.

    Args:
        model: its UNet and text encoders are changed in place; nobody else may change them.
        mesh: whose ranks must agree that all of them can read a file.

    Attributes:
        warnings: what of the files that are fused now is not used, and why.
    """

    def __init__(self, model: Model, mesh: Mesh) -> None:
        self._parts: dict[str, nn.Module] = {
            "unet": model.unet,
            "text_encoder": model.text_encoders[0],
            "text_encoder_2": model.text_encoders[1],
        }
        self._text_width = model.unet.config.cross_attention_dim
        self._mesh = mesh
        self._loras: tuple[Lora, ...] | None = ()  # None: what is fused was not finished
        self._originals = Originals(mesh.replica)
        self._targets: Targets | None = None
        self.warnings: tuple[str, ...] = ()

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
        self._loras = None
        self._originals.restore()
        self._loras, self.warnings = (), ()
        problem: BadLora | None = None
        found: list[_Fused] = []
        warnings: list[str] = []
        try:
            for lora in loras:
                found += self._read(lora, warnings)
        except BadLora as error:
            problem = error
        self._agree(problem)
        by_weight: dict[Tensor, list[_Fused]] = {}
        for one in found:
            by_weight.setdefault(one.weight, []).append(one)
        self._originals.keep(list(by_weight))
        self._loras = None
        problem = _fuse(by_weight)
        try:
            self._agree(problem)
        except BadLora:
            self._originals.restore()
            self._loras = ()
            raise
        self._loras, self.warnings = tuple(loras), tuple(warnings)

    def _agree(self, problem: BadLora | None) -> None:
        if not p2p.all_agree(self._mesh, self._mesh.replica, problem is None):
            raise problem or BadLora("a LoRA", "another rank cannot use it")

    def _read(self, lora: Lora, warnings: list[str]) -> Iterator[_Fused]:
        file = read_file(lora.path, lora.sha256)
        check_base(file, self._text_width if isinstance(self._text_width, int) else None)
        if self._targets is None:
            self._targets = Targets(self._parts)
        text_scale = lora.scale if lora.text_scale is None else lora.text_scale
        strength = Strength(lora.scale, text_scale, lora.blocks, self._targets.original)
        try:
            found = matches(file.tensors, file.peft, self._targets, strength)
        except (BadNumber, BadPattern) as error:
            raise BadLora(file.name, str(error)) from error
        _require_use(file, found)
        warnings += [f"LoRA {file.name}: {sentence}" for sentence in found.leftovers()]
        if strange := strength.strange(self._targets.all()):
            warnings.append(f"LoRA {file.name}: this model has no blocks {', '.join(strange)}")
        return (_Fused(file.name, weight, change) for weight, change in found.changes)


def _require_use(file: LoraFile, found: Matches) -> None:
    """Refuse a file of which nothing fits, or more does not than does."""
    unfit = sum(found.misfits.values())
    if found.used and unfit <= found.used:
        return
    if unfit:
        made_for = "it was made for another kind of model"
        raise BadLora(file.name, f"{'; '.join(found.leftovers())}; {made_for}")
    if found.whole:
        raise BadLora(file.name, "it holds whole weights and no changes of them: a checkpoint, not a LoRA")
    raise BadLora(file.name, "; ".join(found.leftovers()) or "it has no LoRA weights at all")


def _fuse(by_weight: dict[Tensor, list[_Fused]]) -> BadLora | None:
    """Change the weights in place, each in float32 on its device; what is no number afterwards is a problem."""
    lowest, highest = [], []
    for weight, fused in by_weight.items():
        changed = weight.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        for one in fused:
            changed = one.change.onto(changed)
        least, most = torch.aminmax(changed)  # NaN if any is; an eighth of the time of a norm on a CPU
        lowest.append(least)
        highest.append(most)
        weight.copy_(changed)
    if not by_weight:
        return None
    limits = torch.tensor([torch.finfo(weight.dtype).max for weight in by_weight], device=lowest[0].device)
    bad = ~((torch.stack(highest) <= limits) & (torch.stack(lowest) >= -limits))
    if not bool(bad.any()):
        return None
    fused = list(by_weight.values())[int(bad.nonzero()[0])]
    guilty = [
        one for one in fused if not all(bool(side.float().isfinite().all()) for side in one.change.sides.values())
    ]
    if guilty:
        return BadLora(guilty[0].file, "it holds numbers that are not finite (NaN or infinity): a damaged file")
    return BadLora(fused[0].file, f"weights would exceed what {fused[0].weight.dtype} holds: lower its scale")
