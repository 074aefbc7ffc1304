"""Prompts to what each encoder of SDXL reads; what does not fit is read in pieces, left out, or refused."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distri.model.text import chunks
from distri.model.text.chunks import Chunk, Token, Vector
from distri.model.text.encoding import ReadBlend, Reading, ReadPart
from distri.model.text.prompts import MARKS, Fit, LongPrompt, Prompts, Side, Text, Wording
from distri.model.text.timeline import Timeline
from distri.model.text.weighted_prompt import (
    Composable,
    Inversion,
    Part,
    Period,
    Prompt,
    Span,
    WeightedPrompt,
    Weighting,
    weighted,
)
from distri.ranks.errors import BadImage, PromptTooLong

VectorsOf = Callable[[Inversion, int], Sequence[Vector]]  # those for the first or the second encoder


def _none_read(inversion: Inversion, _encoder: int) -> Sequence[Vector]:
    raise BadImage(f"embedding {inversion.name!r} has not been read")


def read(
    tokenizers: Sequence[Any],
    positive: tuple[Prompt, Prompt | None],
    negative: tuple[Prompt | None, Prompt | None] | None,
    *,
    long: LongPrompt,
    zeros_for_none: bool,
    vectors_of: VectorsOf = _none_read,
) -> Prompts:
    """Read an image's texts; the same on every rank, before any collective.

    Args:
        tokenizers: one an encoder.
        positive: prompt, and that for the second encoder; None is the prompt itself.
        negative: likewise. A first one of None is no negative prompt at all; the empty text is encoded instead and
            gives another image. None for the whole: it is not needed.
        long: what becomes of texts that do not fit.
        zeros_for_none: whether no negative prompt means zeroed embeddings (SDXL base) or the empty text.
        vectors_of: the textual inversions that have been read.

    Raises:
        PromptTooLong: a text does not fit and is to be refused.
        BadImage: the prompts do not go together.
    """
    reader = _Reader(tokenizers, long, zeros_for_none, vectors_of)
    positives = reader.sides(*positive, "prompt")
    negatives = [] if negative is None else reader.sides(*negative, "negative_prompt")
    if len(negatives) > 1:
        raise BadImage(f"a negative prompt is one, found {len(negatives)} joined by AND")
    fits = _fits(positives, negatives)
    sides = [Side(*one, fit) for one, fit in zip((*positives, *negatives), fits, strict=True)]
    count = len(positives)
    return Prompts(tuple(sides[:count]), sides[count] if negatives else None, reader.left_out)


_Unfitted = tuple[Timeline[Wording], Timeline[Wording], float]


def _fits(positives: Sequence[_Unfitted], negatives: Sequence[_Unfitted]) -> list[Fit]:
    own = [[word for line in side[:2] for word in line.values] for side in (*positives, *negatives)]
    pieces = [max(wording.pieces for wording in side) for side in own]
    texts = [text for side in own for wording in side for text in wording.texts]
    rules = {text.weighting for text in texts if isinstance(text, Reading)}
    if not rules or Weighting.COMPEL in rules:
        longest = max(pieces)
        return [Fit(longest, longest, longest)] * len(pieces)
    extended = max(pieces[: len(positives)])
    total = math.lcm(extended, *pieces[len(positives) :])
    return [Fit(filled, extended if place < len(positives) else filled, total) for place, filled in enumerate(pieces)]


@dataclass
class _Reader:
    """Reads an image's texts one after the other, and notes what is left out of them."""

    tokenizers: Sequence[Any]
    long: LongPrompt
    zeros_for_none: bool
    vectors_of: VectorsOf

    def __post_init__(self) -> None:
        self.left_out: dict[str, str] = {}

    def sides(self, first: Prompt | None, second: Prompt | None, field: str) -> list[_Unfitted]:
        """What both encoders read of a prompt; one for each that is joined by AND."""
        fields = (field, field if second is None else f"{field}_2")
        if not any(isinstance(prompt, WeightedPrompt) for prompt in (first, second)):
            literal = self._literal(first, first if second is None else second, fields)  # type: ignore[arg-type]  # both are texts
            return [(Timeline.always(literal), Timeline.always(literal), 1.0)]
        both = self._alike(first, first if second is None else second, fields)
        count = max(len(prompt.composables) for prompt in both if prompt is not None)
        composables = []
        for prompt, name in zip(both, fields, strict=True):
            own: Sequence[Composable | None] = (None,) if prompt is None else prompt.composables
            if len(own) not in (1, count):
                raise BadImage(f"{name} has {len(own)} prompts joined by AND, the other encoder's has {count}")
            composables.append([*own] * (count if len(own) == 1 else 1))
        return [self._composable(pair, both, fields) for pair in zip(*composables, strict=True)]

    def _literal(self, first: str | None, second: str | None, fields: tuple[str, str]) -> Wording:
        texts: list[Text | None] = []
        for tokenizer, text, name in zip(self.tokenizers, (first, second), fields, strict=True):
            if text is None and self.zeros_for_none:
                texts.append(None)
                continue
            texts.append(found := _pieces(tokenizer, text or "", field=name, long=self.long))
            self._leave_out(name, found.left_out)
        return Wording(tuple(texts))

    def _leave_out(self, field: str, text: str) -> None:
        if len(text) > len(self.left_out.get(field, "")):
            self.left_out[field] = text

    def _alike(
        self, first: Prompt | None, second: Prompt | None, fields: tuple[str, str]
    ) -> tuple[WeightedPrompt | None, WeightedPrompt | None]:
        """Both with weights, of which a literal one has none; None where there is to be none."""
        rules = {prompt.weighting for prompt in (first, second) if isinstance(prompt, WeightedPrompt)}
        if len(rules) > 1:
            raise BadImage(f"{fields[0]} and {fields[1]} are weighted by different rules; one wanted")
        (rule,) = rules

        def alike(prompt: Prompt | None) -> WeightedPrompt | None:
            if prompt is None and self.zeros_for_none:
                return None
            return prompt if isinstance(prompt, WeightedPrompt) else weighted(rule, prompt or "")

        return alike(first), alike(second)

    def _composable(
        self, pair: Sequence[Composable | None], both: Sequence[WeightedPrompt | None], fields: Sequence[str]
    ) -> _Unfitted:
        weights = {one.weight for one in pair if one is not None}
        if len(weights) > 1:
            raise BadImage(f"{fields[0]} and {fields[1]} have different weights, {sorted(weights)}; one wanted")
        (weight,) = weights

        def line(later: bool) -> Timeline[Wording]:
            own = []
            for place, (composable, prompt) in enumerate(zip(pair, both, strict=True)):
                if composable is None or prompt is None:
                    own.append(Timeline[Reading | None].always(None))
                    continue
                periods = composable.periods if not later or composable.later is None else composable.later
                readings = (self._reading(place, prompt, period, fields[place]) for period in periods)
                own.append(_timeline(periods, list(readings), fields[place]))
            return _side_by_side(own)

        if not math.isfinite(weight):
            raise BadImage(f"{fields[0]}: weight {weight}; a number wanted")
        return line(False), line(True), weight

    def _reading(self, encoder: int, prompt: WeightedPrompt, period: Period, field: str) -> Reading:
        rule = prompt.weighting
        parts: list[ReadPart | ReadBlend] = []
        for part in period.parts:
            if isinstance(part, Part):
                parts.append(self._part(encoder, part, rule, field))
            elif rule is not Weighting.COMPEL or not part.parts:
                raise BadImage(f"{field}: a blend of {len(part.parts)} parts; compel alone has blends, of one or more")
            else:
                own = tuple(self._part(encoder, one, rule, field) for one in part.parts)
                if part.normalize and sum(one.weight for one in own) == 0:
                    raise BadImage(f"{field}: the weights of a blend add up to 0, by which they are divided")
                parts.append(ReadBlend(own, part.normalize, part.weight))
        if rule is not Weighting.COMPEL and len(parts) > 1 and parts[-1] == ReadPart(((),)):
            parts.pop()  # nothing comes after the last BREAK
        if not parts:
            raise BadImage(f"{field}: a prompt of no parts")
        pooled = self._pooled(encoder, prompt) if rule is Weighting.COMPEL else None
        return Reading(rule, tuple(parts), pooled)

    def _part(self, encoder: int, part: Part, rule: Weighting, field: str) -> ReadPart:
        if not all(math.isfinite(number) for number in (part.weight, *(span.weight for span in part.spans))):
            raise BadImage(f"{field}: a weight that is not a number")
        tokenizer = self.tokenizers[encoder]
        spans = chunks.merged(part.spans) if rule is Weighting.A1111 else list(part.spans)
        found = chunks.chunks_of(tokenizer, spans, rule, lambda inversion: self.vectors_of(inversion, encoder))
        if len(found) > 1 and self.long is LongPrompt.ERROR:
            tokens = sum(len(chunk) for chunk in found) + MARKS
            raise PromptTooLong(field=field, tokens=tokens, limit=tokenizer.model_max_length)
        if len(found) > 1 and self.long is LongPrompt.TRUNCATE:
            self._leave_out(field, _rest_of(spans, found[1][0]))
            found = found[:1]
        return ReadPart(tuple(found), part.weight)

    def _pooled(self, encoder: int, prompt: WeightedPrompt) -> Chunk | None:
        """The text as it was written, syntax and all; None where vectors take the place of names in it."""
        if any(prompt.inversions()):
            return None
        tokenizer = self.tokenizers[encoder]
        ids = tokenizer(prompt.written, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return tuple(Token(one) for one in ids[: tokenizer.model_max_length - MARKS])


def _timeline(periods: Sequence[Period], readings: Sequence[Reading], field: str) -> Timeline["Reading | None"]:
    untils = [period.until for period in periods]
    numbers = [until for until in untils[:-1] if until is not None]
    if not untils or untils[-1] is not None or len(numbers) < len(untils) - 1 or sorted(set(numbers)) != numbers:
        raise BadImage(f"{field}: its periods end at {untils}; rising steps wanted, and None for the last")
    return Timeline(tuple(zip(untils, readings, strict=True)))


def _side_by_side(lines: Sequence[Timeline[Reading | None]]) -> Timeline[Wording]:
    """One timeline of what both encoders read: it changes where either does."""

    def periods() -> Iterator[tuple[int | None, Wording]]:
        begin = 0
        for until in (*sorted({step for line in lines for step in line.changes if step > 0}), None):
            yield until, Wording(tuple(line.at(begin) for line in lines))
            begin = until or 0

    return Timeline(tuple(periods()))


def _rest_of(spans: Sequence[Span | Inversion], token: Token) -> str:
    """The text from a token on, without its weights."""
    texts = [span.text if isinstance(span, Span) else span.name for span in spans[token.span :]]
    return texts[0][token.start :] + "".join(texts[1:])


def _pieces(tokenizer: Any, text: str, *, field: str, long: LongPrompt) -> Text:
    encoded = tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
    ids, room = encoded.input_ids, tokenizer.model_max_length - MARKS
    if len(ids) > room and long is LongPrompt.ERROR:
        raise PromptTooLong(field=field, tokens=len(ids) + MARKS, limit=tokenizer.model_max_length)
    if len(ids) > room and long is LongPrompt.TRUNCATE:
        start, _ = encoded.offset_mapping[room]
        return Text((tuple(ids[:room]),), text[start:])
    return Text(tuple(tuple(ids[start : start + room]) for start in range(0, max(1, len(ids)), room)))
