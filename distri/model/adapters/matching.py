"""Which of a file's tensors change which weight of the model, and which are not used."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from distri.model.adapters.changes import Change
from distri.model.adapters.scalings import PeftSettings, rank_of
from pipeline.loras.kinds import AdapterKind, kind_of
from pipeline.loras.names import BUNDLE, PARTS, UNET, ModuleName, ldm_names, module_names, places, split_key

_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Target:
    """A module that can be changed.

    Attributes:
        part: of the pipeline.
        name: in the part, with dots.
        module: has a weight, and may have a bias.
    """

    part: str
    name: str
    module: Any


@dataclass
class Matches:
    """What a file does to a model.

    Attributes:
        changes: each with the weight or bias that it is for.
        used: how many of the file's tensors are used.
        unknown, incomplete, misfits: names of modules that the model does not have, whose tensors make no known kind,
            or do not fit the model's, in the file's words, each with its number of tensors.
        misfit: the shapes of the first that do not fit.
        whole: how many tensors are whole weights and biases, as a checkpoint has them.
        silent: modules whose alpha is 0.
        embeddings: names of textual inversions that the file brings along.
    """

    changes: list[tuple[Tensor, Change]] = field(default_factory=list)
    used: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    incomplete: dict[str, int] = field(default_factory=dict)
    misfits: dict[str, int] = field(default_factory=dict)
    misfit: str = ""
    whole: int = 0
    silent: list[str] = field(default_factory=list)
    embeddings: set[str] = field(default_factory=set)

    def leftovers(self) -> Iterator[str]:
        """What is not used and why, a sentence each."""
        for modules, why in (
            (self.unknown, "which this model has no weights for"),
            (self.incomplete, "whose tensors make no known kind of LoRA, or not all of one"),
            (self.misfits, f"whose shapes do not fit the model's ({self.misfit})"),
        ):
            if modules:
                yield f"not used: {_count(sum(modules.values()), 'tensor')} of {_some(modules)}, {why}"
        if self.silent:
            yield f"nothing changes by {_some(self.silent)}, whose alpha is 0"
        if self.embeddings:
            yield f"it brings along the embeddings {_some(self.embeddings)}, for prompts that name them"


class Targets:
    """The modules of a model under all names that files give them."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self._by_place: dict[ModuleName, Target] = {}
        for part in PARTS:
            modules = dict(_changeable(parts[part]))
            self._by_place |= {
                place: Target(part, name.removeprefix("text_model."), modules[name])
                for place, name in module_names(part, modules).items()
            }

    def find(self, name: str) -> Target | None:
        """The module that a file calls so."""
        return next((found for place in places(name) if (found := self._by_place.get(place)) is not None), None)

    def all(self) -> set[Target]:
        """Every module once."""
        return set(self._by_place.values())

    @functools.cached_property
    def original(self) -> dict[str, str]:
        """The names of the UNet's modules in the original network."""
        return ldm_names(sorted({target.name for target in self._by_place.values() if target.part == UNET}))


class BadNumber(ValueError):
    """An alpha that is no number."""


def matches(
    state: Mapping[str, Tensor], settings: Mapping[str, Any], targets: Targets, strength: "Strength"
) -> Matches:
    """Match a file with a model.

    Args:
        state: its tensors.
        settings: peft's, from its header.
        targets: the model's modules.
        strength: what the user asks for, by module.

    Raises:
        BadNumber, BadPattern.
    """
    found = Matches()
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if key.startswith(BUNDLE):
            found.embeddings.add(key.removeprefix(BUNDLE).split(".")[0])
            continue
        module, side = split_key(key)
        modules.setdefault(module, {})[side] = tensor
    of_peft = {part: PeftSettings(settings, part) for part in PARTS}
    taken: set[tuple[str, str, AdapterKind]] = set()
    for module, sides in modules.items():
        target, kind = targets.find(module), kind_of(sides.keys())
        if target is None:
            found.unknown[module] = len(sides)
            continue
        if sides.keys() <= {"weight", "bias"}:
            found.whole += len(sides)
        if kind is None or (target.part, target.name, kind) in taken:
            found.incomplete[module] = len(sides)
            continue
        taken.add((target.part, target.name, kind))
        factor = _factor(kind, module, sides, of_peft[target.part], target)
        changes = list(_changes(kind, sides, factor, strength.of(target), target.module))
        if not changes or not all(weight is not None and change.fits(weight) for weight, change in changes):
            found.misfits[module] = len(sides)
            found.misfit = found.misfit or _misfit(module, sides, target)
            continue
        found.used += len(sides)
        if factor == 0:
            found.silent.append(module)
        found.changes += [(weight, change) for weight, change in changes if factor and change.strength]
    return found


class Strength:
    """What the user asks for, by module.

    Args:
        unet, text: for the UNet and for the text encoders.
        blocks: by block, what that is multiplied with; a longer name goes before a shorter one.
        original: the names of the UNet's modules in the original network.
    """

    def __init__(
        self,
        unet: float,
        text: float,
        blocks: Sequence[tuple[str, float]] = (),
        original: Mapping[str, str] | None = None,
    ) -> None:
        self._unet, self._text, self._original = unet, text, original or {}
        self._names = [name for name, _ in blocks]
        self._blocks = sorted(((f"{_prefix(name)}.", factor) for name, factor in blocks), key=lambda one: -len(one[0]))

    def strange(self, targets: Iterable[Target]) -> list[str]:
        """The blocks that hold none of a model's modules."""
        names = {name for target in targets for name in self._names_of(target)} if self._names else set()
        return [block for block in self._names if not any(name.startswith(f"{_prefix(block)}.") for name in names)]

    def _names_of(self, target: Target) -> tuple[str, ...]:
        if target.part == UNET:
            return f"{target.name}.", f"{self._original.get(target.name, '')}."
        return f"{target.part}.", "base."

    def of(self, target: Target) -> float:
        """The strength for one module."""
        names = self._names_of(target)
        factor = next((factor for prefix, factor in self._blocks if any(n.startswith(prefix) for n in names)), 1.0)
        return factor * (self._unet if target.part == UNET else self._text)


def _prefix(block: str) -> str:
    """A block's name as that of the modules in it begins: IN04 is input_blocks.4."""
    for short, name in (("IN", "input_blocks"), ("OUT", "output_blocks")):
        if block.startswith(short) and block[len(short) :].isdigit():
            return f"{name}.{int(block[len(short) :])}"
    return {"M00": "middle_block", "BASE": "base"}.get(block, block)


def _changeable(part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
    return ((name, module) for name, module in part.named_modules() if isinstance(module, kinds))


def _changes(
    kind: AdapterKind, sides: Mapping[str, Tensor], factor: float, strength: float, module: Any
) -> Iterator[tuple[Any, Change]]:
    """The changes of a module's weight and bias; the weight is None if the module has none."""
    weight, bias = module.weight, getattr(module, "bias", None)
    if kind is AdapterKind.NORM:
        yield weight, Change(AdapterKind.DIFF, {"diff": sides["w_norm"]}, factor, strength)
    elif kind is not AdapterKind.BIAS:
        own = {name: side for name, side in sides.items() if name not in ("diff_b", "up_bias")}
        if kind is not AdapterKind.OFT:
            own.pop("alpha", None)
        yield weight, Change(kind, own, factor, strength)
    for name, by in (("up_bias", factor), ("diff_b", 1.0), ("b_norm", 1.0)):
        if name in sides:
            yield bias, Change(AdapterKind.DIFF, {"diff": sides[name]}, by, strength)


def _factor(
    kind: AdapterKind, module: str, sides: Mapping[str, Tensor], of_peft: PeftSettings, target: Target
) -> float:
    rank = rank_of(kind, sides)
    if not rank:
        return 1.0
    if "alpha" not in sides:
        scaling = of_peft.scaling(target.name, rank)
        return 1.0 if scaling is None else scaling
    if sides["alpha"].numel() != 1 or not math.isfinite(alpha := float(sides["alpha"])):
        raise BadNumber(f"{module}.alpha is no number")
    return alpha / rank


def _misfit(module: str, sides: Mapping[str, Tensor], target: Target) -> str:
    shapes = ", ".join(str(tuple(side.shape)) for side in sides.values())
    return f"{_printable(module[:100])}: found {shapes[:200]}, wanted what makes {tuple(target.module.weight.shape)}"


def _some(modules: Any) -> str:
    names = sorted(modules)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(_printable(name[:100]) for name in names[:_SHOWN]) + more


def _printable(name: str) -> str:
    """Names come from the file, and the message goes to logs and terminals."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
