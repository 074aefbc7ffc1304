"""The pictures that images begin with: read once, checked against what was accepted."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distri.ranks.mesh import Mesh
from distri.run import input_pictures
from distri.run.input_pictures import InputLost, InputPictures, shared_pixels
from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings
from pipeline.picture import InputPicture
from pipeline.records.object_keys import BatchObjects

OBJECTS = BatchObjects("b")


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(settings)


def _stored(artifacts: Artifacts, shade: int, mode: str = "RGB") -> tuple[InputPicture, bytes]:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (shade, 0, 0)).convert(mode).save(file, "PNG")
    png = file.getvalue()
    picture = InputPicture(sha256=hashlib.sha256(png).hexdigest(), width=24, height=16)
    artifacts.put(OBJECTS.input_picture(picture.sha256), io.BytesIO(png), content_type="image/png")
    return picture, png


def test_a_picture_of_many_images_is_read_once(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = Artifacts.get

    def counted(self: Artifacts, key: str, *args: Any, **kwargs: Any) -> bytes | None:
        asked.append(key)
        return real(self, key, *args, **kwargs)

    monkeypatch.setattr(Artifacts, "get", counted)
    (first, png), (second, _) = _stored(artifacts, 1), _stored(artifacts, 2)
    pictures = InputPictures(artifacts, OBJECTS)
    pictures.ahead(None)
    pictures.ahead(first)
    for picture in (first, second, first):
        pictures.ahead(second)
        pictures.png(picture)
    assert pictures.png(first) == png
    assert len(asked) == 2
    found = shared_pixels(Mesh.single(), first, png)
    assert found is not None
    assert np.array_equal(found[0, 0], (1, 0, 0))
    assert shared_pixels(Mesh.single(), None, b"") is None


def test_few_bytes_are_kept(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_pictures, "KEPT_BYTES", 100)
    pictures = InputPictures(artifacts, OBJECTS)
    for shade in range(8):
        pictures.png(_stored(artifacts, shade)[0])
    assert len(pictures._asked) <= 4


def test_what_is_gone_or_another_picture_is_said_and_asked_for_again(artifacts: Artifacts) -> None:
    picture, png = _stored(artifacts, 1)
    key = OBJECTS.input_picture(picture.sha256)
    pictures = InputPictures(artifacts, OBJECTS)
    artifacts.delete(key)
    with pytest.raises(InputLost, match=r"is gone from .*; put the object back"):
        pictures.png(picture)
    artifacts.put(key, io.BytesIO(b"<html>"), content_type="image/png")
    with pytest.raises(InputLost, match="is not what was accepted"):
        pictures.png(picture)
    artifacts.put(key, io.BytesIO(png), content_type="image/png")
    assert pictures.png(picture) == png


def test_a_picture_of_another_kind_than_promised_is_not_decoded(artifacts: Artifacts) -> None:
    grey, _ = _stored(artifacts, 1, "L")
    with pytest.raises(InputLost, match="24x16 L found; 24x16 RGB wanted"):
        InputPictures(artifacts, OBJECTS).png(grey)
