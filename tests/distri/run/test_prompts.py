"""Prompts of a row in its syntax reach the engine with weights, steps and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distri.model.text.weighted_prompt import (
    Blend,
    Composable,
    Inversion,
    Part,
    Period,
    Span,
    WeightedPrompt,
    Weighting,
)
from distri.ranks.errors import BadInversion
from distri.run.prompts import prompts_of
from pipeline.deployment.settings import EmbeddingSource
from pipeline.picture import Highres, HighresMode, Syntax
from tests.factories import resolved_row

EMBEDDINGS = {"dark": EmbeddingSource(path="/models/dark.safetensors", sha256="1" * 64, aliases=("Gloom",))}


def _prompts(**changes: Any) -> dict[str, Any]:
    return prompts_of(resolved_row(**changes), EMBEDDINGS)


@pytest.mark.parametrize("syntax", [None, Syntax.NONE])
def test_a_literal_prompt_stays_a_text(syntax: Syntax | None) -> None:
    found = _prompts(prompt="a (red:1.3) fox", negative_prompt="((x))", syntax=syntax)
    assert found == {
        "prompt": "a (red:1.3) fox", "prompt_2": None, "negative_prompt": "((x))", "negative_prompt_2": None,
    }  # fmt: skip


def test_a_prompt_of_a1111_has_weights_parts_steps_and_embeddings() -> None:
    text = "a (red:1.3) [fox:cat:3] BREAK Gloom AND hill :0.5"
    found = _prompts(prompt=text, syntax=Syntax.A1111, embeddings=("dark",), steps=10)["prompt"]
    dark = Inversion(Path("/models/dark.safetensors"), "1" * 64, "dark")

    def parts(animal: str) -> tuple[Part, ...]:
        return (Part((Span("a "), Span("red", 1.3), Span(f" {animal}"))), Part((dark,)))

    # A1111 shows the first side up to and with its step 3, counted from 0.
    first = Composable((Period(parts("fox"), 4), Period(parts("cat"))))
    second = Composable((Period((Part((Span(" hill"),)),)),), 0.5)
    assert found == WeightedPrompt(Weighting.A1111, (first, second), text)


def test_a_pass_that_refines_has_a_schedule_of_its_own() -> None:
    highres = Highres(mode=HighresMode.REFINE, strength=0.5, steps=8, base_px=64)
    found = _prompts(prompt="[a:b:0.5][c:d:1.5]", syntax=Syntax.A1111, steps=10, highres=highres)["prompt"]
    (composable,) = found.composables
    assert [period.until for period in composable.periods] == [6, None]
    # Of its 8 steps it walks 4.
    assert composable.later == (Period((Part((Span("bc"),)),), 3), Period((Part((Span("bd"),)),)))


def test_comfyui_s_and_compel_s_rules_hold_for_their_prompts() -> None:
    comfy = _prompts(prompt="a ((b:1.3))", negative_prompt="embedding:dark", syntax=Syntax.COMFY, embeddings=("dark",))
    assert comfy["prompt"].weighting is Weighting.COMFY
    assert comfy["prompt"].composables[0].periods[0].parts == (Part((Span("a "), Span("b", 1.3))),)
    assert [one.name for one in comfy["negative_prompt"].inversions()] == ["dark"]
    compel = _prompts(prompt='("a", "b++").blend(1, 3)', syntax=Syntax.COMPEL)["prompt"]
    (blend,) = compel.composables[0].periods[0].parts
    assert isinstance(blend, Blend)
    assert blend.parts == (Part((Span("a"),), 1.0), Part((Span("b", 1.1**2),), 3.0))


def test_only_embeddings_that_the_row_was_submitted_with_are_read() -> None:
    assert list(_prompts(prompt="a Gloom", syntax=Syntax.A1111)["prompt"].inversions()) == []
    with pytest.raises(BadInversion, match="embedding light: it is not in TESSERA_EMBEDDINGS"):
        _prompts(prompt="light", syntax=Syntax.A1111, embeddings=("light",))
