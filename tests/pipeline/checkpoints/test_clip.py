from __future__ import annotations

import random
from typing import Any

import pytest
from transformers import CLIPTokenizer

from pipeline.checkpoints import clip

TEXTS = (
    "a photo of an astronaut riding a horse on mars",
    "I'LL (masterpiece:1.2), best quality, 8k uhd -- it's 'S don't",
    "Ünïcödé ½² ①Ⅳ 日本語 テスト_ a_b __ 😀👍🏽 é \u00a0\u2028 ΑΣ İ",
    "हिन्दी العربية ٣٤ ไทย 한국어",
    "end <|endoftext|> of<|startoftext|>text",
    "   ",
    "x" * 300,
)


@pytest.fixture(scope="module")
def reference() -> Any:
    kind: Any = CLIPTokenizer
    return kind(vocab=clip.vocabulary(), merges=clip.merges())


def test_the_vocabulary_is_that_of_clip() -> None:
    words = clip.vocabulary()
    assert len(words) == 49408
    # The numbers that openai/clip-vit-large-patch14 gives these.
    assert (words["!"], words["a</w>"], words["photo</w>"], words[clip.START], words[clip.END]) == (
        *(0, 320, 1125, 49406),
        49407,
    )


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_has_the_tokens_that_transformers_gives_it(reference: Any, text: str) -> None:
    assert clip.token_ids(text) == reference(text, add_special_tokens=False).input_ids


def test_random_letters_have_the_tokens_that_transformers_gives_them(reference: Any) -> None:
    draw = random.Random(0)
    # Letters, digits, punctuation and symbols that every version of Unicode knows alike.
    pool = [*map(chr, range(32, 0x250)), *map(chr, range(0x391, 0x3A0)), *map(chr, range(0x2100, 0x23FF)), *"漢字かな "]
    for _ in range(300):
        text = "".join(draw.choices(pool, k=12))
        assert clip.token_ids(text) == reference(text, add_special_tokens=False).input_ids, ascii(text)


def test_start_and_end_count() -> None:
    assert clip.count_tokens("") == 2
    assert clip.count_tokens("a photo of a cat") == 7
