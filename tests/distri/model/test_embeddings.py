"""Prompts that are embedded ahead, or were before, give the picture that they give at their turn, bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.adapters.lora import Lora
from distri.model.image import ImageSpec
from distri.model.text.embeddings import KEPT
from distri.model.text.prompts import LongPrompt
from distri.ranks.errors import PromptTooLong
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from tests.distri import loras, on_ranks, reference
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True)
FIRST = ImageSpec("a photo of a cat", "blurry", seed=7, width=64, height=96, steps=2, guidance_scale=5.0)
SECOND = replace(FIRST, prompt="a castle on a hill", seed=8)


class _Counted:
    """An engine of its own on one rank, and how often its first text encoder runs."""

    def __init__(self, model_dir: Path) -> None:
        self.engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
        self.calls = 0
        self.engine._parts.preparation._model.text_encoders[0].register_forward_hook(self._called)

    def _called(self, *_: object) -> None:
        self.calls += 1

    def render(self, image: ImageSpec, upcoming: ImageSpec | None = None) -> Any:
        return self.engine.render(image, control=lambda: Control.GO, upcoming=upcoming).pixels

    def tracks(self) -> list[str]:
        """Who encoded, in order."""
        return [span.track for span in self.engine.spans if span.name == "encode"]


def _by_itself(model_dir: Path, image: ImageSpec) -> Any:
    return _Counted(model_dir).render(image)


@pytest.fixture
def lora(model_dir: Path, tmp_path: Path) -> Lora:
    return Lora(loras.peft(tmp_path / "one.safetensors", reference.pipeline(model_dir).components), 0.8)


def test_an_image_whose_prompts_were_embedded_ahead_is_the_same_and_finds_them_done(model_dir: Path) -> None:
    ours = _Counted(model_dir)
    ours.render(FIRST, upcoming=SECOND)
    after = ours.render(SECOND)
    assert ours.calls == 3  # two prompts, and one negative that both have
    assert sorted(ours.tracks()) == ["prompts", "rank", "rank"]
    assert np.array_equal(after, _by_itself(model_dir, SECOND))


def test_the_same_texts_are_embedded_once_however_many_images_have_them(model_dir: Path) -> None:
    ours = _Counted(model_dir)
    pictures = [ours.render(replace(FIRST, seed=seed)) for seed in range(3)]
    assert ours.calls == 2
    assert np.array_equal(pictures[2], _by_itself(model_dir, replace(FIRST, seed=2)))


def test_what_was_not_wanted_for_long_is_forgotten(model_dir: Path) -> None:
    ours = _Counted(model_dir)
    unguided = replace(FIRST, guidance_scale=1.0, steps=1)
    for number in range(KEPT + 1):
        ours.render(replace(unguided, prompt=f"hill {number}"))
    assert len(ours.engine._parts.preparation.embeddings._kept) == KEPT
    before = ours.calls
    ours.render(replace(unguided, prompt=f"hill {KEPT}"))
    assert ours.calls == before
    ours.render(replace(unguided, prompt="hill 0"))
    assert ours.calls == before + 1


def test_no_embedding_outlives_the_encoders_that_made_it(model_dir: Path, lora: Lora) -> None:
    ours, with_lora = _Counted(model_dir), replace(FIRST, loras=(lora,))
    plain = ours.render(FIRST, upcoming=with_lora)
    changed = ours.render(with_lora, upcoming=FIRST)
    again = ours.render(FIRST)
    assert "prompts" not in ours.tracks()
    assert np.array_equal(plain, again)
    assert np.array_equal(changed, _by_itself(model_dir, with_lora))
    assert not np.array_equal(plain, changed)


def test_an_upcoming_image_that_is_refused_harms_no_other_and_is_refused_at_its_turn(model_dir: Path) -> None:
    ours = _Counted(model_dir)
    too_long = replace(FIRST, prompt="a lake; " * 100, long_prompt=LongPrompt.ERROR)
    assert np.array_equal(ours.render(FIRST, upcoming=too_long), _by_itself(model_dir, FIRST))
    with pytest.raises(PromptTooLong):
        ours.render(too_long)


def test_what_fails_ahead_fails_at_its_turn(model_dir: Path) -> None:
    ours = _Counted(model_dir)

    def broken(*_: object) -> None:
        if ours.calls == 3:
            raise RuntimeError("boom")

    ours.engine._parts.preparation._model.text_encoders[0].register_forward_hook(broken)
    picture = ours.render(FIRST, upcoming=SECOND)
    assert np.array_equal(picture, _by_itself(model_dir, FIRST))
    assert np.array_equal(ours.render(SECOND), _by_itself(model_dir, SECOND))


def _one_after_the_other(model_dir: Path, layout: str, images: list[ImageSpec]) -> list[Any]:
    own = on_ranks.engine(model_dir, layout, EngineSettings(warmup=1))
    following = [*images[1:], None]
    return [
        own.render(image, control=lambda: Control.GO, upcoming=upcoming)
        for image, upcoming in zip(images, following, strict=True)
    ]


@pytest.mark.parametrize("layout", ["1x1x2", "1x2x1"])
def test_ranks_that_embed_ahead_stay_together(ranks: Callable[[int], Ranks], model_dir: Path, layout: str) -> None:
    images = [replace(FIRST, prompt=f"hill {number}", seed=number, steps=3) for number in range(4)]
    ahead = ranks(2).run(_one_after_the_other, model_dir, layout, images)[0]
    plain = ranks(2).run(on_ranks.render, model_dir, layout, EngineSettings(warmup=1), images)[0]
    for one, other in zip(ahead, plain, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
