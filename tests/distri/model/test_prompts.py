"""Prompts of any length, for both encoders, against plain diffusers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distri.engine import EngineSettings
from distri.model.image import ImageSpec
from distri.model.text import prompt_reader
from distri.model.text.prompts import LongPrompt, Prompts, Text
from distri.ranks.errors import PromptTooLong
from tests.distri import on_ranks, reference
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True)
PLAIN = ImageSpec("a photo of a cat", "blurry", seed=7, width=96, height=128, steps=2, guidance_scale=5.0)
LONG = "a Mountain Lake at sunrise, with fog; " * 12
CHUNK = replace(PLAIN, long_prompt=LongPrompt.CHUNK)
IMAGES = {
    "two prompts": replace(PLAIN, prompt_2="a castle", negative_prompt_2="low quality"),
    "an empty second prompt": replace(PLAIN, prompt_2="", negative_prompt_2=""),
    "a negative prompt for the second encoder only": replace(
        CHUNK, negative_prompt=None, negative_prompt_2="low quality"
    ),
    "in pieces": replace(CHUNK, prompt=LONG),
    "in pieces, no negative": replace(CHUNK, prompt=LONG, negative_prompt=None),
    "a longer negative": replace(CHUNK, negative_prompt=LONG),
    "second prompt in pieces": replace(CHUNK, prompt_2=LONG, negative_prompt=""),
    "chunks where one will do": CHUNK,
    "a negative half told other sizes": replace(
        PLAIN, crop=(8, 4), negative_original_size=(64, 48), negative_crop=(0, 16), negative_target_size=(512, 256)
    ),
    "both halves told the same": replace(PLAIN, original_size=(64, 48), crop=(8, 4)),
}


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3")])
def test_prompts_of_every_kind_give_the_picture_of_plain_diffusers(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    answers = ranks(count).run(on_ranks.render, model_dir, layout, EXACT, list(IMAGES.values()))
    for place, (name, image) in enumerate(IMAGES.items()):
        _, wanted = reference.render(model_dir, image)
        assert np.abs(answers[0][place].pixels - wanted * 255).max() < 1, name
        assert answers[0][place].left_out == {}


def test_displaced_pictures_of_texts_of_different_lengths_do_not_mix(
    ranks: Callable[[int], Ranks], model_dir: Path
) -> None:
    images = [replace(image, steps=4) for image in (IMAGES["in pieces"], PLAIN, IMAGES["in pieces"])]
    first, other, again = ranks(2).run(on_ranks.render, model_dir, "1x1x2", EngineSettings(warmup=1), images)[0]
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)


def test_a_truncated_text_is_that_of_its_beginning_and_the_result_says_what_was_left_out(
    ranks: Callable[[int], Ranks], model_dir: Path
) -> None:
    cut = replace(PLAIN, long_prompt=LongPrompt.TRUNCATE, prompt=LONG, negative_prompt_2=LONG + " The END")
    found = ranks(2).run(on_ranks.render, model_dir, "1x1x2", EXACT, [cut])[0][0]
    left_out = found.left_out
    assert set(left_out) == {"prompt", "negative_prompt_2"}
    assert LONG.endswith(left_out["prompt"])
    assert left_out["negative_prompt_2"] == left_out["prompt"] + " The END"
    _, wanted = reference.render(model_dir, replace(cut, long_prompt=LongPrompt.ERROR))  # diffusers truncates too
    assert np.abs(found.pixels - wanted * 255).max() < 1


def _read(model_dir: Path, text: str, long: LongPrompt, **changes: Any) -> Prompts:
    parts = reference.pipeline(model_dir).components
    arguments: dict[str, Any] = {"long": long, "zeros_for_none": True} | changes
    return prompt_reader.read([parts["tokenizer"], parts["tokenizer_2"]], (text, None), (None, None), **arguments)


@pytest.mark.parametrize(("tokens", "pieces"), [(0, 1), (1, 1), (75, 1), (76, 2), (150, 2), (151, 3)])
def test_a_piece_holds_75_tokens(model_dir: Path, tokens: int, pieces: int) -> None:
    read = _read(model_dir, "a " * tokens, LongPrompt.CHUNK)
    assert read.pieces == pieces
    first = read.positives[0].first.at(0).texts[0]
    assert isinstance(first, Text)
    assert sum(len(piece) for piece in first.pieces) == tokens


@pytest.mark.parametrize("long", [LongPrompt.ERROR, LongPrompt.TRUNCATE])
def test_a_text_of_77_tokens_with_its_marks_is_whole_and_one_more_is_too_long(
    model_dir: Path, long: LongPrompt
) -> None:
    assert _read(model_dir, "a " * 75, long).left_out == {}
    if long is LongPrompt.TRUNCATE:
        assert _read(model_dir, "a " * 76, long).left_out == {"prompt": "a "}
    else:
        with pytest.raises(PromptTooLong, match=r"prompt has 78 tokens.* reads 77"):
            _read(model_dir, "a " * 76, long)


def test_no_negative_prompt_is_zeros_or_the_empty_text_as_the_model_has_it(model_dir: Path) -> None:
    sides = [_read(model_dir, "a", LongPrompt.ERROR, zeros_for_none=zeros).negative for zeros in (True, False)]
    zeros, empty = (side.first.at(0).texts for side in sides if side is not None)
    assert zeros == (None, None)
    assert [text.pieces for text in empty if isinstance(text, Text)] == [((),), ((),)]
