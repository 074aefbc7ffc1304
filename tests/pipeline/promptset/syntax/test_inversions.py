"""LoRAs and embeddings are found under every name that people have for them."""

from __future__ import annotations

import pytest

from pipeline.deployment.allow_lists import Names
from pipeline.promptset.syntax.inversions import Inversions
from pipeline.promptset.syntax.parsed import Inversion, Span
from tests.pipeline.promptset.syntax.listed import Entry

NAMES = Names({"film": Entry(("FilmGrain_v2", "grain")), "ink": Entry(("grain",)), "bad-hands-5": Entry()})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("film", "film"),
        ("FilmGrain_v2", "film"),
        ("filmgrain_V2", "film"),
        ("FilmGrain_v2.safetensors", "film"),
        ("SDXL\\styles/FilmGrain_v2.safetensors", "film"),
        ("grain", "film"),
        (" ink ", "ink"),
        ("inkk", None),
    ],
)
def test_a_name_is_an_id_a_file_or_an_alias(name: str, wanted: str | None) -> None:
    assert NAMES.find(name) == wanted


def test_the_nearest_names_are_named() -> None:
    assert NAMES.nearest("filmgrian") == "nearest film"
    assert NAMES.nearest("zzzzzz") == "allowed are bad-hands-5, film, ink"
    assert Names({}).nearest("x") == "allowed are none"


def test_an_embedding_is_found_by_its_bare_name_between_words() -> None:
    inversions = Inversions(NAMES)
    found = list(inversions.in_words(Span("filmy film, BAD-hands-5;inks (ink) embedding:film", 1.2)))
    assert found == [
        Span("filmy ", 1.2), Inversion("film", 1.2), Span(", ", 1.2), Inversion("bad-hands-5", 1.2),
        Span(";inks (", 1.2), Inversion("ink", 1.2), Span(") ", 1.2), Inversion("film", 1.2),
    ]  # fmt: skip
    assert not inversions.any_in("filmy inks")
