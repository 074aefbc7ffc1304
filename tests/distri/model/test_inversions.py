"""Textual inversions: vectors in the place of tokens, read from what people have, and nothing else is changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distri.model.model import of_pipeline
from distri.model.text import prompt_reader
from distri.model.text.embeddings import Embedding, Embeddings
from distri.model.text.inversions import Inversions, Source, naming
from distri.model.text.prompts import LongPrompt
from distri.model.text.weighted_prompt import Inversion, Prompt, Span, Weighting, weighted
from distri.ranks.errors import BadInversion
from distri.ranks.mesh import Mesh
from distri.ranks.spans import Spans
from tests.distri import reference

A1111 = Weighting.A1111
WIDTHS = (32, 64)


@pytest.fixture
def parts(model_dir: Path) -> Any:
    return reference.pipeline(model_dir)


def _vectors(parts: Any, text: str) -> tuple[Tensor, Tensor]:
    """What both encoders embed the tokens of a text to: an inversion of these is the text itself."""
    ids = torch.tensor(parts.tokenizer(text).input_ids[1:-1])
    encoders = parts.text_encoder, parts.text_encoder_2
    first, second = (encoder.get_input_embeddings()(ids).detach().clone() for encoder in encoders)
    return first, second


@torch.inference_mode()
def _embedding(parts: Any, prompt: Prompt, inversions: Inversions, long: LongPrompt = LongPrompt.CHUNK) -> Embedding:
    model = of_pipeline(parts)
    texts = prompt_reader.read(
        model.tokenizers, (prompt, None), None, long=long, zeros_for_none=True, vectors_of=inversions.vectors
    )
    return Embeddings(model, Spans()).of(texts, 2).positives[0].first.at(0)


def _read(*paths: Path, bundles: tuple[Path, ...] = ()) -> Inversions:
    inversions = Inversions(WIDTHS, 75, Mesh.single())
    inversions.read([Source(path, None) for path in paths], [Source(path, None) for path in bundles])
    return inversions


def _same(found: Embedding, wanted: Embedding) -> bool:
    return torch.equal(found.text, wanted.text) and torch.equal(found.pooled, wanted.pooled)


@pytest.mark.parametrize("rule", list(Weighting))
def test_vectors_of_both_encoders_stand_where_tokens_would(parts: Any, tmp_path: Path, rule: Weighting) -> None:
    first, second = _vectors(parts, "castle hill")
    path = tmp_path / "castle.safetensors"
    save_file({"clip_l": first, "clip_g": second.to(torch.float64)}, path)
    inversions = _read(path)
    found = _embedding(parts, weighted(rule, "a ", Inversion(path), " at night"), inversions)
    before = _embedding(parts, weighted(rule, "a ", "castle hill", " at night"), inversions)
    assert torch.allclose(found.text, before.text, atol=1e-5)
    assert torch.allclose(found.pooled, before.pooled, atol=1e-5) or rule is Weighting.COMPEL
    assert not torch.equal(found.text, _embedding(parts, weighted(rule, "a ", " at night"), inversions).text)
    assert _same(before, _embedding(parts, weighted(rule, "a ", "castle hill", " at night"), inversions))


def test_a_weight_is_that_of_all_its_vectors(parts: Any, tmp_path: Path) -> None:
    path = tmp_path / "hill.safetensors"
    save_file(dict(zip(("clip_l", "clip_g"), _vectors(parts, "castle hill"), strict=True)), path)
    found = _embedding(parts, weighted(A1111, Inversion(path, weight=1.4)), _read(path))
    wanted = _embedding(parts, weighted(A1111, Span("castle hill", 1.4)), _read())
    assert torch.allclose(found.text, wanted.text, atol=1e-5)


def test_vectors_count_as_tokens_and_are_not_cut_apart(parts: Any, tmp_path: Path) -> None:
    path = tmp_path / "three.safetensors"
    save_file(dict(zip(("clip_l", "clip_g"), _vectors(parts, "a a a"), strict=True)), path)
    inversions = _read(path)
    for rule in (A1111, Weighting.COMFY):
        texts = prompt_reader.read(
            [parts.tokenizer, parts.tokenizer_2],
            (weighted(rule, "a " * 73, Inversion(path)), None),
            None,
            long=LongPrompt.CHUNK,
            zeros_for_none=True,
            vectors_of=inversions.vectors,
        )
        (part,) = texts.positives[0].first.at(0).texts[0].parts  # type: ignore[union-attr]
        assert [len(chunk) for chunk in part.chunks] == [73, 3]  # type: ignore[union-attr]


ROW = torch.ones(2, 32)
FORMS: list[tuple[dict[str, Tensor], list[int]]] = [
    ({"clip_l": ROW, "clip_g": torch.ones(3, 64)}, [2, 3]),
    ({"text_encoders_0": ROW, "text_encoders_1": torch.ones(64)}, [2, 1]),
    ({"emb_params": ROW}, [2, 0]),
    ({"string_to_param.*": torch.ones(64).half()}, [0, 1]),
    ({"<cat>": torch.ones(32)}, [1, 0]),
    (
        {"bundle_emb.cat.clip_l": ROW, "bundle_emb.cat.string_to_param.*": torch.ones(1, 64), "lora": torch.ones(3)},
        [2, 1],
    ),
]


@pytest.mark.parametrize(("tensors", "counts"), FORMS)
def test_every_form_of_file_is_read(tmp_path: Path, tensors: dict[str, Tensor], counts: list[int]) -> None:
    path = tmp_path / "cat.safetensors"
    save_file(tensors, path)
    inversions = _read(path)
    assert [len(inversions.vectors(Inversion(path, name="cat"), encoder)) for encoder in (0, 1)] == counts


def _other(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>Sign in</title>")


WRONG: list[tuple[str, Callable[[Path], None], str]] = [
    ("cat.pt", _other, r"cat\.pt: it is a pickle.*save_file"),
    ("cat.safetensors", _other, r"cannot be read as safetensors"),
    ("cat.safetensors", lambda path: save_file({"emb_params": torch.ones(1, 48)}, path), "48 numbers.*32 and 64"),
    ("cat.safetensors", lambda path: save_file({"clip_g": ROW}, path), "32 numbers"),
    ("cat.safetensors", lambda path: save_file({"clip_l": torch.ones(76, 32)}, path), "76 vectors, 1 to 75"),
    ("cat.safetensors", lambda path: save_file({"clip_l": ROW * torch.inf}, path), "not finite"),
    ("cat.safetensors", lambda path: save_file({"clip_l": torch.ones(1, 2, 32)}, path), "wanted rows of numbers"),
    ("cat.safetensors", lambda path: save_file({}, path), "no tensors"),
]


@pytest.mark.parametrize(("name", "write", "reason"), WRONG)
def test_what_is_no_embedding_of_this_model_is_refused_with_the_reason(
    tmp_path: Path, name: str, write: Callable[[Path], None], reason: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(BadInversion, match=reason):
        _read(tmp_path / name)


def test_a_file_of_another_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.safetensors"
    save_file({"clip_l": ROW}, path)
    with pytest.raises(BadInversion, match="SHA-256 is"):
        Inversions(WIDTHS, 75, Mesh.single()).read([Source(path, "0" * 64)])


def test_a_lora_brings_its_embeddings_along_by_their_names(tmp_path: Path) -> None:
    path, other = tmp_path / "lora.safetensors", tmp_path / "plain.safetensors"
    save_file({"bundle_emb.Mila.clip_l": ROW, "unet.down": torch.ones(3)}, path)
    save_file({"unet.down": torch.ones(3)}, other)
    bundled = _read(bundles=(path, other)).bundled([Source(path, None), Source(other, None)])
    assert bundled == {"Mila": Source(path, None)}
    found = naming(weighted(A1111, Span("a mila, (embedding:Mila) by Milan", 1.2)), bundled)
    (part,) = found.composables[0].periods[0].parts
    mila = Inversion(path, None, "Mila", 1.2)
    spans = Span("a ", 1.2), mila, Span(", (", 1.2), mila, Span(") by Milan", 1.2)
    assert part.spans == spans  # type: ignore[union-attr]
