"""What weights do to embeddings, against what each source's rule gives by hand."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distri.model.model import of_pipeline
from distri.model.text import chunks, prompt_reader
from distri.model.text.embeddings import Embedding, Embeddings
from distri.model.text.prompts import LongPrompt
from distri.model.text.weighted_prompt import (
    Blend,
    Composable,
    Part,
    Period,
    Prompt,
    Span,
    WeightedPrompt,
    Weighting,
    weighted,
)
from distri.ranks.errors import BadImage, PromptTooLong
from distri.ranks.spans import Spans
from tests.distri import reference

A1111, COMFY, COMPEL = Weighting.A1111, Weighting.COMFY, Weighting.COMPEL
CAT = (Span("a photo of a "), Span("cat", 1.5), Span(" on a "), Span("chair", 0.4))
CAT_IDS, CAT_WEIGHTS = "a photo of a cat on a chair", {"cat": 1.5, "chair": 0.4}


@pytest.fixture
def parts(model_dir: Path) -> Any:
    return reference.pipeline(model_dir)


@torch.inference_mode()
def _read(
    parts: Any, prompt: Prompt, second: Prompt | None = None, *, long: LongPrompt = LongPrompt.CHUNK, clip_skip: int = 2
) -> Embedding:
    model = of_pipeline(parts)
    texts = prompt_reader.read(model.tokenizers, (prompt, second), None, long=long, zeros_for_none=True)
    return Embeddings(model, Spans()).of(texts, clip_skip).positives[0].first.at(0)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, truncation=False, verbose=False).input_ids[1:-1])


@torch.inference_mode()
def _states(
    parts: Any, place: int, pieces: Sequence[Sequence[int]], mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """By hand: the last layer but one of an encoder, a row a piece, and its first output."""
    tokenizer, encoder = (
        (parts.tokenizer, parts.text_encoder) if place == 0 else (parts.tokenizer_2, parts.text_encoder_2)
    )
    rows = [[tokenizer.bos_token_id, *piece, tokenizer.eos_token_id] for piece in pieces]
    ids = torch.tensor([[*row, *[tokenizer.pad_token_id] * (77 - len(row))] for row in rows])
    output = encoder(ids, attention_mask=mask, output_hidden_states=True)
    return output.hidden_states[-2], output[0]


def _weights(parts: Any, text: str, by_word: dict[str, float]) -> Tensor:
    """Of 77 tokens, the first of which is the start."""
    own = [by_word.get(word, 1.0) for word in text.split() for _ in _ids(parts.tokenizer, word)]
    return torch.tensor([1.0, *own, *[1.0] * (76 - len(own))])[None, :, None]


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and float((found - wanted).abs().max() / wanted.abs().max()) < 1e-6


def _a1111(states: Tensor, weights: Tensor) -> Tensor:
    product = states * weights
    return product * (states.mean() / product.mean())


def _comfy(states: Tensor, weights: Tensor, empty: Tensor) -> Tensor:
    return empty + (states - empty) * weights


def test_a1111_multiplies_by_the_weights_and_restores_the_mean_of_each_encoder(parts: Any) -> None:
    found, wanted = _read(parts, weighted(A1111, *CAT)), []
    for place, tokenizer in enumerate((parts.tokenizer, parts.tokenizer_2)):
        states, pooled = _states(parts, place, [_ids(tokenizer, CAT_IDS)])
        wanted.append(_a1111(states, _weights(parts, CAT_IDS, CAT_WEIGHTS)))
    assert _close(found.text, torch.cat(wanted, dim=2))
    assert _close(found.pooled, pooled)  # the weights leave it alone


def test_comfy_goes_from_the_empty_prompt_as_far_as_the_weight_says(parts: Any) -> None:
    found, wanted = _read(parts, weighted(COMFY, *CAT)), []
    for place, tokenizer in enumerate((parts.tokenizer, parts.tokenizer_2)):
        states, pooled = _states(parts, place, [_ids(tokenizer, CAT_IDS)])
        empty, _ = _states(parts, place, [[]])
        wanted.append(_comfy(states, _weights(parts, CAT_IDS, CAT_WEIGHTS), empty))
    assert _close(found.text, torch.cat(wanted, dim=2))
    assert _close(found.pooled, pooled)


def _compel(parts: Any, place: int, text: str, by_word: dict[str, float]) -> Tensor:
    ids, empty = _ids(parts.tokenizer, text), _states(parts, place, [[]])[0]
    weights = _weights(parts, text, by_word)
    total, share = _comfy(_states(parts, place, [ids])[0], weights, empty), 1.0
    for word, weight in by_word.items():
        if weight < 1:
            mask = torch.ones(1, 77, dtype=torch.long)
            own = _ids(parts.tokenizer, word)
            start = next(at for at in range(len(ids)) if ids[at : at + len(own)] == own) + 1
            mask[0, start : start + len(own)] = 0
            more = math.tan((1 - weight) * math.pi / 2)
            total = total + more * _comfy(_states(parts, place, [ids], mask)[0], weights, empty)
            share += more
    return total / share


def test_compel_goes_down_towards_the_prompt_without_the_words_and_pools_what_was_written(parts: Any) -> None:
    prompt = WeightedPrompt(
        COMPEL, (Composable((Period((Part(CAT),)),)),), written="a photo of a (cat)1.5 on a (chair)0.4"
    )
    found = _read(parts, prompt)
    assert _close(found.text, torch.cat([_compel(parts, place, CAT_IDS, CAT_WEIGHTS) for place in (0, 1)], dim=2))
    assert _close(found.pooled, _states(parts, 1, [_ids(parts.tokenizer, prompt.written)])[1])


def test_compel_blends_and_joins_embeddings(parts: Any) -> None:
    cat, hill = Part((Span("a cat"),), 3.0), Part((Span("a hill"),), 1.0)
    joined = Period((Blend((cat, hill)), Part((Span("a lake"),), 0.5)))
    prompt = WeightedPrompt(COMPEL, (Composable((joined,)),), "x")
    wanted = []
    for place, tokenizer in enumerate((parts.tokenizer, parts.tokenizer_2)):
        one, two, three, empty = (
            _states(parts, place, [_ids(tokenizer, text)])[0] for text in ("a cat", "a hill", "a lake", "")
        )
        wanted.append(torch.cat([0.75 * one + 0.25 * two, empty + (three - empty) * 0.5], dim=1))
    assert _close(_read(parts, prompt).text, torch.cat(wanted, dim=2))


def test_break_begins_a_chunk_and_each_chunk_keeps_its_own_mean(parts: Any) -> None:
    prompt = WeightedPrompt(
        A1111, (Composable((Period((Part((Span("a cat", 1.3),)), Part((Span("a hill"),)), Part(()))),)),)
    )
    found = _read(parts, prompt).text
    first, _ = _states(parts, 0, [_ids(parts.tokenizer, "a cat")])
    second, _ = _states(parts, 0, [_ids(parts.tokenizer, "a hill")])
    wanted = torch.cat([_a1111(first, _weights(parts, "a cat", {"a": 1.3, "cat": 1.3})), second], dim=1)
    assert _close(found[:, :, :32], wanted)  # nothing comes after the last BREAK


@pytest.mark.parametrize("rule", list(Weighting))
def test_without_weights_every_rule_gives_the_literal_embedding(parts: Any, rule: Weighting) -> None:
    literal = _read(parts, "a photo of a cat")
    found = _read(parts, weighted(rule, "a photo of a cat"))
    assert _close(found.text, literal.text)
    assert _close(found.pooled, literal.pooled)


def test_clip_skip_reads_another_layer_of_both_encoders(parts: Any) -> None:
    for prompt in ("a cat", weighted(COMFY, "a cat")):
        found, usual = _read(parts, prompt, clip_skip=1), _read(parts, prompt)
        wanted = [
            encoder(tokenizer("a cat", padding="max_length", return_tensors="pt").input_ids, output_hidden_states=True)
            for tokenizer, encoder in (
                (parts.tokenizer, parts.text_encoder),
                (parts.tokenizer_2, parts.text_encoder_2),
            )
        ]
        assert _close(found.text, torch.cat([output.hidden_states[-1] for output in wanted], dim=2))
        assert torch.equal(found.pooled, usual.pooled)


def _lengths(parts: Any, rule: Weighting, *texts: str) -> list[int]:
    spans = [Span(text) for text in texts]
    return [len(chunk) for chunk in chunks.chunks_of(parts.tokenizer, spans, rule, lambda _: [])]


CHUNKS = [
    (A1111, ["a " * 75], [75]),
    (A1111, ["a " * 76], [75, 1]),
    (A1111, ["a " * 70 + ", " + "a " * 10], [71, 10]),  # a comma near the end takes what follows it along
    (A1111, ["a " * 50 + ", " + "a " * 30], [75, 6]),  # too far from the end
    (A1111, ["a " * 75 + ", a"], [75, 2]),
    (A1111, ["a " * 74 + "zxqj"], [74, 4]),  # not in the middle of a word
    (A1111, ["zxqj" * 40], [75, 75, 10]),  # unless it is longer than a chunk
    (COMFY, ["a " * 70 + ", " + "a " * 10], [75, 6]),
    (COMFY, ["a " * 74 + "zxqj"], [74, 4]),
    (COMFY, ["a " * 72 + "zxqjzxqj"], [75, 5]),  # eight tokens are a large word
    (COMFY, [""], [0]),
    (COMPEL, ["a " * 20 + ". " + "a " * 30 + ", " + "a " * 30], [21, 61]),
    (COMPEL, ["a " * 50 + ", " + "a " * 30], [51, 30]),
    (COMPEL, ["a " * 74 + "zxqj"], [74, 4]),
    (COMPEL, [""], [0]),
]


@pytest.mark.parametrize(("rule", "texts", "lengths"), CHUNKS)
def test_long_texts_are_cut_where_their_source_cuts_them(
    parts: Any, rule: Weighting, texts: list[str], lengths: list[int]
) -> None:
    assert len(_ids(parts.tokenizer, "zxqj")) == 4
    assert _lengths(parts, rule, *texts) == lengths


def test_a_long_prompt_is_refused_or_cut_as_it_is_asked(parts: Any) -> None:
    spans = Span("a " * 74, 1.2), Span("zxqj hill", 0.5)
    with pytest.raises(PromptTooLong, match="prompt has 81 tokens"):
        _read(parts, weighted(A1111, *spans), long=LongPrompt.ERROR)
    model = of_pipeline(parts)
    texts = prompt_reader.read(
        model.tokenizers, (weighted(A1111, *spans), None), None, long=LongPrompt.TRUNCATE, zeros_for_none=True
    )
    assert texts.pieces == 1
    assert texts.left_out == {"prompt": "zxqj hill"}
    assert _read(parts, weighted(A1111, *spans)).text.shape == (1, 154, 96)


REFUSED: list[tuple[Prompt, Prompt | None, str]] = [
    (weighted(A1111, Span("a", math.nan)), None, "not a number"),
    (weighted(A1111, "a"), weighted(COMFY, "a"), "different rules"),
    (WeightedPrompt(A1111, (Composable((Period((Part(()),), until=3),)),)), None, r"end at \[3\]"),
    (WeightedPrompt(A1111, (Composable(()),)), None, r"end at \[\]"),
    (WeightedPrompt(A1111, (Composable((Period(()),)),)), None, "no parts"),
    (WeightedPrompt(COMFY, (Composable((Period((Blend((Part(()),)),)),)),)), None, "compel alone"),
]


@pytest.mark.parametrize(("prompt", "second", "reason"), REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(
    parts: Any, prompt: Prompt, second: Prompt | None, reason: str
) -> None:
    with pytest.raises(BadImage, match=reason):
        _read(parts, prompt, second)
