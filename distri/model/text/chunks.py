"""Texts with weights as the chunks of tokens that a text encoder reads at once, cut where their source cuts them.

A chunk has room for 75 tokens between its start and its end. Where a source would cut a word in two although the word
would fit whole into the next chunk, it is not followed: A1111 does where no comma is near.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from torch import Tensor

from distri.model.text.weighted_prompt import Inversion, Span, Weighting

COMMA_BACKTRACK = 20  # A1111's comma_padding_backtrack: so near a chunk's end, a comma ends it
LARGE_WORD = 8  # ComfyUI's max_word_length: words of so many tokens are cut
WORD_END = "</w>"  # how the last token of a word ends in CLIP's vocabulary


@dataclass(frozen=True)
class Vector:
    """One vector of a textual inversion, in the place of what a token's id is embedded to.

    Attributes:
        source: which one it is: equal for equal values, since it is part of the keys of embeddings that are kept.
        values: C.
    """

    source: Hashable
    values: Tensor = field(compare=False, repr=False)


@dataclass(frozen=True)
class Token:
    """One token of a text.

    Attributes:
        id: in the tokenizer's vocabulary; 0 under a vector.
        weight: of its span.
        span: place of its span in the part.
        start: of its first character in the span's text.
        vector: what stands in its place, if it is one of a textual inversion's.
    """

    id: int
    weight: float = 1.0
    span: int = 0
    start: int = 0
    vector: Vector | None = None


Chunk = tuple[Token, ...]
Word = list[Token]  # what is not cut in two if it can be helped
VectorsOf = Callable[[Inversion], Sequence[Vector]]  # a textual inversion's for one encoder; none if it has none for it


def merged(spans: Sequence[Span | Inversion]) -> list[Span | Inversion]:
    """The same with neighbouring texts of one weight joined, as A1111 does before it makes tokens of them."""
    found: list[Span | Inversion] = []
    for span in spans:
        before = found[-1] if found else None
        if isinstance(span, Span) and isinstance(before, Span) and before.weight == span.weight:
            found[-1] = replace(before, text=before.text + span.text)
        else:
            found.append(span)
    return found


def chunks_of(
    tokenizer: Any, spans: Sequence[Span | Inversion], weighting: Weighting, vectors_of: VectorsOf
) -> list[Chunk]:
    """A part's chunks for one encoder; at least one, which may be empty."""
    room = tokenizer.model_max_length - 2
    if weighting is Weighting.COMFY:
        return _cut_before_words(_words(tokenizer, spans, vectors_of, by_space=True), room)
    words = _words(tokenizer, spans, vectors_of, by_space=False)
    if weighting is Weighting.COMPEL:
        return _cut_at_sentences([token for word in words for token in word], room, tokenizer)
    return _cut_at_commas(words, room, tokenizer.get_vocab().get("," + WORD_END))


def _words(tokenizer: Any, spans: Sequence[Span | Inversion], vectors_of: VectorsOf, *, by_space: bool) -> list[Word]:
    """Tokens in words: those between two spaces, or those that the vocabulary ends as one; an inversion is one."""
    words: list[Word] = []
    for place, span in enumerate(spans):
        if isinstance(span, Inversion):
            words.append([Token(0, span.weight, place, vector=vector) for vector in vectors_of(span)])
            continue
        encoded = tokenizer(
            span.text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )
        starts = [start for start, _ in encoded.offset_mapping]
        tokens = [Token(one, span.weight, place, start) for one, start in zip(encoded.input_ids, starts, strict=True)]
        if by_space:
            spaces = [number for number, letter in enumerate(span.text) if letter in " \n"]
            grouped = groupby(tokens, lambda token: sum(at < token.start for at in spaces))  # noqa: B023 - used up at once
            words += [list(word) for _, word in grouped]
            continue
        word: Word = []
        for token, text in zip(tokens, tokenizer.convert_ids_to_tokens(encoded.input_ids), strict=True):
            word.append(token)
            if text.endswith(WORD_END):
                words.append(word)
                word = []
        if word:
            words.append(word)
    return words


def _cut_at_commas(words: Sequence[Word], room: int, comma: int | None) -> list[Chunk]:
    """A1111's chunks: a full one ends behind its last comma, if that is near its end, and else before a word."""
    chunks: list[Chunk] = []
    chunk: list[Token] = []
    comma_at: int | None = None

    def close(size: int) -> None:
        nonlocal chunk, comma_at
        chunks.append(tuple(chunk[:size]))
        chunk, comma_at = chunk[size:], None

    for word in words:
        if word and word[0].vector is not None:
            if len(chunk) + len(word) > room:
                close(len(chunk))
            chunk += word
            continue
        for begun, token in enumerate(word):
            if token.id == comma:
                comma_at = len(chunk)
            elif len(chunk) == room and comma_at is not None and room - comma_at <= COMMA_BACKTRACK:
                close(comma_at + 1)
            if len(chunk) == room:
                close(room - begun if begun < room else room)
            chunk.append(token)
    if chunk or not chunks:
        close(len(chunk))
    return chunks


def _cut_before_words(words: Sequence[Word], room: int) -> list[Chunk]:
    """ComfyUI's chunks: a word that does not fit begins the next one, but a large one is cut."""
    chunks: list[list[Token]] = [[]]
    for word in words:
        rest = word
        while len(chunks[-1]) + len(rest) > room:
            free = room - len(chunks[-1]) if len(word) >= LARGE_WORD else 0
            chunks[-1] += rest[:free]
            rest = rest[free:]
            chunks.append([])
        chunks[-1] += rest
    return [tuple(chunk) for chunk in chunks]


def _cut_at_sentences(tokens: Sequence[Token], room: int, tokenizer: Any) -> list[Chunk]:
    """compel's chunks: they end with a sentence, or else a phrase, or else a word."""
    chunks: list[Chunk] = []
    rest = list(tokens)
    while len(rest) > room:
        texts = [
            WORD_END if token.vector is not None else str(tokenizer.convert_ids_to_tokens(token.id))
            for token in rest[:room]
        ]
        ends = (
            [place for place, text in enumerate(texts) if text == "." + WORD_END],
            [place for place, text in enumerate(texts) if text in {mark + WORD_END for mark in ".,;:"}],
            [place for place, text in enumerate(texts) if text.endswith(WORD_END)],
        )
        cut = next((places[-1] + 1 for places in ends if places), room)
        chunks.append(tuple(rest[:cut]))
        rest = rest[cut:]
    return [*chunks, tuple(rest)] if rest or not chunks else chunks
