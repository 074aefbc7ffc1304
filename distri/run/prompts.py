"""A row's prompts in their syntax, to the prompts that the engine reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distri.model.text import weighted_prompt as engine
from distri.ranks.errors import BadImage, BadInversion
from pipeline.deployment.allow_lists import Names
from pipeline.deployment.settings import EmbeddingSource
from pipeline.picture import HighresMode, Picture, Syntax
from pipeline.promptset.decisions.prompts import PROMPTS
from pipeline.promptset.syntax import reading
from pipeline.promptset.syntax.inversions import Inversions
from pipeline.promptset.syntax.parsed import BadSyntax, Blend, Composed, Condition, Part, Span

_WEIGHTING = {
    Syntax.A1111: engine.Weighting.A1111,
    Syntax.COMFY: engine.Weighting.COMFY,
    Syntax.COMPEL: engine.Weighting.COMPEL,
}


def prompts_of(row: Picture, embeddings: Mapping[str, EmbeddingSource]) -> dict[str, engine.Prompt | None]:
    """The row's prompts by their fields: as they stand, or read in the row's syntax.

    Args:
        row: its embeddings were found when it was submitted; no other is read in its prompts.
        embeddings: the allow-list of this pod.

    Raises:
        BadInversion: the row names an embedding that is not on it; the same on all ranks.
        BadImage: this version cannot read a prompt that was valid when the row was submitted.
    """
    texts: dict[str, str | None] = {name: getattr(row, name) for name in PROMPTS}
    syntax = row.syntax
    if syntax is None or syntax is Syntax.NONE:
        return {**texts}
    for name in row.embeddings:
        if name not in embeddings:
            raise BadInversion(name, "it is not in TESSERA_EMBEDDINGS of this pod")
    named = {name: embeddings[name] for name in row.embeddings}
    reader = _Reader(row, syntax, named, Inversions(Names(named)))
    return {name: None if text is None else reader.read(name, text) for name, text in texts.items()}


class _Reader:
    """Reads one row's prompts."""

    def __init__(
        self, row: Picture, syntax: Syntax, embeddings: Mapping[str, EmbeddingSource], inversions: Inversions
    ) -> None:
        self._row, self._syntax = row, syntax
        self._embeddings, self._inversions = embeddings, inversions

    def read(self, name: str, text: str) -> engine.WeightedPrompt:
        """A prompt, for the first pass and for those that refine."""
        negative, row = name.startswith("negative"), self._row
        try:
            first = self._read(text, row.steps, negative=negative)
            later = None
            if row.highres.mode is HighresMode.REFINE and self._syntax is Syntax.A1111:
                # The engine walks this share of the steps (`Composable.later`); A1111 walks all that it is told of.
                walked = max(1, int((row.highres.steps or row.steps) * row.highres.strength))
                later = self._read(text, walked, negative=negative, later_pass=True)
        except BadSyntax as error:
            raise BadImage(f"{name}: {error}") from error
        composables = tuple(
            engine.Composable(self._periods(one), one.weight, None if later is None else self._periods(later[number]))
            for number, one in enumerate(first)
        )
        return engine.WeightedPrompt(_WEIGHTING[self._syntax], composables, text)

    def _read(self, text: str, steps: int, *, negative: bool, later_pass: bool = False) -> tuple[Composed, ...]:
        return reading.read(
            text, self._syntax, steps, negative=negative, inversions=self._inversions, later_pass=later_pass
        )

    def _periods(self, composed: Composed) -> tuple[engine.Period, ...]:
        *before, last = composed.schedule
        # Steps count from 0 there, and what holds up to and with step 3 holds in steps 0 to 3 (see `Period`).
        return (*(self._period(one, one.until + 1) for one in before), self._period(last, None))

    def _period(self, condition: Condition, until: int | None) -> engine.Period:
        return engine.Period(tuple(self._part(part) for part in condition.parts), until)

    def _part(self, part: Part | Blend) -> engine.Part | engine.Blend:
        if isinstance(part, Blend):
            return engine.Blend(tuple(self._plain_part(one) for one in part.parts), part.normalize)
        return self._plain_part(part)

    def _plain_part(self, part: Part) -> engine.Part:
        return engine.Part(
            tuple(
                engine.Span(one.text, one.weight) if isinstance(one, Span) else self._inversion(one.name, one.weight)
                for one in part.spans
            ),
            part.weight,
        )

    def _inversion(self, name: str, weight: float) -> engine.Inversion:
        source = self._embeddings[name]
        return engine.Inversion(Path(source.path), source.sha256, name, weight)
