"""A reference is embedded once for a batch: what the first engine has made, the others read from the bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distri.model.model import Model, load
from distri.model.reference.image_encoder import ImageEncoder
from distri.model.reference.ip_adapter import IPAdapter
from distri.model.reference.references import ReferencePicture, References
from distri.ranks.mesh import Mesh
from distri.run.kept_tokens import BucketTokens
from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings
from pipeline.records.object_keys import BatchObjects
from tests.distri import ip_adapters, reference

OBJECTS = BatchObjects("b")


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(settings)


@pytest.fixture
def picture(model_dir: Path, tmp_path: Path) -> ReferencePicture:
    unet: Any = reference.pipeline(model_dir).unet
    encoder = ip_adapters.write_encoder(tmp_path / "image_encoder")
    made = ip_adapters.write_adapter(tmp_path / "face.safetensors", unet, encoder)
    digests = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (made.path, encoder / "model.safetensors"))
    adapter = IPAdapter(made.path, encoder, *digests)
    pixels = np.random.default_rng(3).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    return ReferencePicture(adapter, "a" * 64, pixels=pixels)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each picture that an encoder sees."""
    seen, embed = list[int](), ImageEncoder.embed

    def noted(encoder: ImageEncoder, pixels: Any, *, hidden: bool) -> torch.Tensor:
        seen.extend([1] if pixels is not None else [])
        return embed(encoder, pixels, hidden=hidden)

    monkeypatch.setattr(ImageEncoder, "embed", noted)
    return seen


def _model(model_dir: Path, dtype: torch.dtype = torch.float32) -> Model:
    return load(model_dir, device=torch.device("cpu"), dtype=dtype)


def _tokens(model: Model, picture: ReferencePicture, tokens: BucketTokens) -> torch.Tensor:
    """Those that a new engine has of the picture, once what it left is there."""
    (read,) = References(model, Mesh.single()).read([replace(picture, kept=tokens)])
    tokens._writer.shutdown()
    return read.tokens


def test_engines_of_a_batch_embed_a_picture_once(
    artifacts: Artifacts, model_dir: Path, picture: ReferencePicture, embedded: list[int]
) -> None:
    model = _model(model_dir)
    first = _tokens(model, picture, BucketTokens(artifacts, OBJECTS))
    (picture.adapter.encoder / "model.safetensors").unlink()  # nor is the encoder loaded
    again = _tokens(model, replace(picture, scale=0.3, pixels=None), BucketTokens(artifacts, OBJECTS))
    assert torch.equal(first, again)
    assert len(embedded) == 1
    (key,) = artifacts.list(OBJECTS.root)
    assert key.startswith(OBJECTS.root + "inputs/")


def test_other_pictures_adapters_batches_and_number_formats_have_tokens_of_their_own(
    artifacts: Artifacts, model_dir: Path, picture: ReferencePicture, embedded: list[int]
) -> None:
    model, unet = _model(model_dir), reference.pipeline(model_dir).unet
    other = ip_adapters.write_adapter(
        picture.adapter.path.parent / "o.safetensors", unet, picture.adapter.encoder, seed=5
    )
    digest = hashlib.sha256(other.path.read_bytes()).hexdigest()
    _tokens(model, picture, BucketTokens(artifacts, OBJECTS))
    for one, own, objects in (
        (replace(picture, sha256="b" * 64), model, OBJECTS),
        (replace(picture, adapter=replace(picture.adapter, path=other.path, sha256=digest)), model, OBJECTS),
        (picture, _model(model_dir, torch.bfloat16), OBJECTS),
        (picture, model, BatchObjects("c")),
    ):
        before = len(embedded)
        _tokens(own, one, BucketTokens(artifacts, objects))
        assert len(embedded) == before + 1


@pytest.mark.parametrize(
    "damage", [lambda body: body[:-4], lambda body: body + b"more", lambda body: body[:-1] + b"\x99", lambda _: b""]
)
def test_damaged_tokens_are_made_again_and_replaced(
    artifacts: Artifacts,
    model_dir: Path,
    picture: ReferencePicture,
    damage: Callable[[bytes], bytes],
    embedded: list[int],
) -> None:
    model = _model(model_dir)
    first = _tokens(model, picture, BucketTokens(artifacts, OBJECTS))
    (key,) = artifacts.list(OBJECTS.root)
    whole = artifacts.get(key, 1 << 20)
    assert whole is not None
    artifacts.put(key, damage(whole), content_type="application/octet-stream")
    again = _tokens(model, picture, BucketTokens(artifacts, OBJECTS))
    assert torch.equal(first, again)
    assert len(embedded) == 2
    assert artifacts.get(key, 1 << 20) == whole


def test_where_the_store_is_away_they_are_made_here(
    settings: Settings, model_dir: Path, picture: ReferencePicture, embedded: list[int]
) -> None:
    away = Artifacts(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))
    tokens = BucketTokens(away, OBJECTS)
    (read,) = References(_model(model_dir), Mesh.single()).read([replace(picture, kept=tokens)])
    tokens._writer.shutdown(wait=False, cancel_futures=True)
    assert len(embedded) == 1
    assert read.tokens.isfinite().all()
