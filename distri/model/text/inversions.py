"""Textual inversions: vectors that stand in the place of tokens, read from safetensors files.

A file holds vectors for both encoders (`clip_l`, `clip_g`), or one tensor, which is for the encoder whose width it has
(`emb_params`, `string_to_param.*`, a diffusers token). A LoRA file may bring some along, as `bundle_emb.NAME.` and the
same.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distri.model.text.chunks import Vector
from distri.model.text.weighted_prompt import Blend, Inversion, Part, Period, Span, WeightedPrompt
from distri.ranks import p2p
from distri.ranks.errors import BadInversion
from distri.ranks.mesh import Mesh
from pipeline.loras.names import BUNDLE

MOST_FILES = 64  # of which vectors are kept; one takes some KB
# By encoder, what trainers call its vectors.
NAMES = (
    ("clip_l", "text_encoders_0", "text_encoder"),
    ("clip_g", "text_encoders_1", "text_encoder_2"),
)
PICKLED = (".pt", ".bin", ".ckpt", ".pth")


@dataclass(frozen=True)
class Source:
    """A file that may hold textual inversions."""

    path: Path
    sha256: str | None


# By name, the vectors for each encoder, VC in float32, or None where the file has none for it.
Held = Mapping[str, tuple[Tensor | None, ...]]


class Inversions:
    """The textual inversions that images of a model name. It changes neither tokenizers nor encoders.

    Args:
        widths: of the encoders' embeddings of tokens.
        room: most tokens of a chunk, which is most vectors that a name can stand for.
        mesh: whose ranks must agree that all of them can read a file.
    """

    def __init__(self, widths: Sequence[int], room: int, mesh: Mesh) -> None:
        self._widths, self._room, self._mesh = tuple(widths), room, mesh
        self._held: dict[Source, Held] = {}

    def holds(self, sources: Sequence[Source]) -> bool:
        """Whether all of these have been read."""
        return all(source in self._held for source in sources)

    def read(self, sources: Sequence[Source], bundles: Sequence[Source] = ()) -> None:
        """Read what has not been read; all ranks of a replica together, with equal arguments. Blocks if there is any.

        Args:
            sources: files of embeddings.
            bundles: files of LoRAs, which need not have any.

        Raises:
            BadInversion: on all ranks.
        """
        wanted = dict.fromkeys((*sources, *bundles))
        missing = [source for source in wanted if source not in self._held]
        if not missing:
            return
        problem: BadInversion | None = None
        read: dict[Source, Held] = {}
        try:
            for source in missing:
                read[source] = self._of_file(source, bundle=source in bundles)
        except BadInversion as error:
            problem = error
        if not p2p.all_agree(self._mesh, self._mesh.replica, problem is None):
            raise problem or BadInversion("an embedding", "another rank cannot read it")
        self._held |= read
        surplus = [source for source in self._held if source not in wanted][: max(0, len(self._held) - MOST_FILES)]
        for source in surplus:
            del self._held[source]

    def bundled(self, sources: Sequence[Source]) -> dict[str, Source]:
        """By name, in which of these LoRA files an embedding is."""
        return {name: source for source in sources for name in self._held[source]}

    def vectors(self, inversion: Inversion, encoder: int) -> list[Vector]:
        """Its vectors for the first or the second encoder; none if it has none for it. Raises BadInversion."""
        source = Source(inversion.path, inversion.sha256)
        held = self._held[source]
        name = inversion.name if inversion.name in held else next(iter(held), "")
        if not held or (len(held) > 1 and name != inversion.name):
            raise BadInversion(
                inversion.path.name, f"it holds {', '.join(sorted(held)) or 'no embeddings'}, {inversion.name!r} wanted"
            )
        values_VC = held[name][encoder]
        if values_VC is None:
            return []
        return [Vector((source, name, encoder, row), value) for row, value in enumerate(values_VC)]

    def encoders_of(self, inversion: Inversion) -> list[str]:
        """For which encoders it has vectors, by the names that files give them."""
        return [names[0] for encoder, names in enumerate(NAMES) if self.vectors(inversion, encoder)]

    def _of_file(self, source: Source, *, bundle: bool) -> Held:
        file = source.path.name
        if source.path.suffix.lower() in PICKLED:
            raise BadInversion(
                file,
                "it is a pickle, which can run code when it is read; wanted a .safetensors file: save its tensors with "
                "safetensors.torch.save_file where you trust it",
            )
        tensors = _read_file(source, bundle=bundle)
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, rest = key.removeprefix(BUNDLE).partition(".") if key.startswith(BUNDLE) else ("", "", key)
            by_name.setdefault(name, {})[rest] = tensor
        held = {name or source.path.stem: self._by_encoder(file, own) for name, own in by_name.items()}
        if not held and not bundle:
            raise BadInversion(file, "it holds no tensors")
        return held

    def _by_encoder(self, file: str, tensors: Mapping[str, Tensor]) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = [None] * len(self._widths)
        for key, tensor in tensors.items():
            values_VC = tensor[None] if tensor.ndim == 1 else tensor
            if values_VC.ndim != 2 or not values_VC.is_floating_point():
                raise BadInversion(file, f"{key} has shape {tuple(tensor.shape)}, wanted rows of numbers")
            count, width = values_VC.shape
            named = next((place for place, names in enumerate(NAMES) if key in names), None)
            fitting = [place for place, own in enumerate(self._widths) if own == width]
            place = named if named is not None else next((one for one in fitting if found[one] is None), None)
            if place is None or place not in fitting or found[place] is not None:
                widths = " and ".join(map(str, self._widths))
                raise BadInversion(
                    file,
                    f"{key} has vectors of {width} numbers, the model's encoders take {widths}: "
                    "it was made for another kind of model, or holds something else",
                )
            if not 1 <= count <= self._room:
                raise BadInversion(file, f"{key} has {count} vectors, 1 to {self._room} wanted")
            if not bool(values_VC.isfinite().all()):
                raise BadInversion(file, f"{key} holds numbers that are not finite")
            found[place] = values_VC.float()
        return tuple(found)


def source_of(inversion: Inversion) -> Source:
    """Its file."""
    return Source(inversion.path, inversion.sha256)


def naming(prompt: WeightedPrompt, bundled: Mapping[str, Source]) -> WeightedPrompt:
    """The prompt with what LoRA files bring along in the place of its names, with `embedding:` before it or not."""
    if not bundled:
        return prompt
    names = "|".join(re.escape(name) for name in sorted(bundled, key=len, reverse=True))
    # No letter before or after, so that a name is not found in the middle of a word.
    pattern = re.compile(rf"(?<!\w)(?:embedding:)?({names})(?!\w)", re.IGNORECASE)
    by_name = {name.lower(): name for name in bundled}

    def pieces(span: Span) -> Iterator[Span | Inversion]:
        texts = pattern.split(span.text)
        for place, text in enumerate(texts):
            if place % 2:
                name = by_name[text.lower()]
                yield Inversion(bundled[name].path, bundled[name].sha256, name, span.weight)
            elif text:
                yield replace(span, text=text)

    def part_of(part: Part) -> Part:
        spans = [own for span in part.spans for own in (pieces(span) if isinstance(span, Span) else (span,))]
        return replace(part, spans=tuple(spans))

    def either(part: Part | Blend) -> Part | Blend:
        return part_of(part) if isinstance(part, Part) else replace(part, parts=tuple(map(part_of, part.parts)))

    def all_of(periods: tuple[Period, ...]) -> tuple[Period, ...]:
        return tuple(replace(one, parts=tuple(map(either, one.parts))) for one in periods)

    return replace(
        prompt,
        composables=tuple(
            replace(one, periods=all_of(one.periods), later=None if one.later is None else all_of(one.later))
            for one in prompt.composables
        ),
    )


def _read_file(source: Source, *, bundle: bool) -> dict[str, Tensor]:
    """The embeddings' tensors; the header is read, not the file's name.

    Who fuses a LoRA compares its digest, and refuses what cannot be read: here such a file brings none along.
    """
    try:
        if source.sha256 is not None and not bundle:
            with source.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != source.sha256.lower():
                raise BadInversion(source.path.name, f"its SHA-256 is {found}, {source.sha256} was wanted")
        with safe_open(source.path, framework="pt") as content:
            keys = list(content.keys())
            bundled = [key for key in keys if key.startswith(BUNDLE)]
            wanted = bundled if bundle or bundled else keys
            return {key: torch.as_tensor(content.get_tensor(key)) for key in wanted}
    except (OSError, SafetensorError, ValueError) as error:
        if bundle:
            return {}
        raise BadInversion(source.path.name, f"it cannot be read as safetensors: {error}") from error
