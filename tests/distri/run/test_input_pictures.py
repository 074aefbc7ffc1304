"""The pictures that images begin with: read once, checked against what was accepted."""

from __future__ import annotations

import hashlib
import io
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distri.ranks.mesh import Mesh
from distri.run import input_pictures, input_pixels
from distri.run.input_pictures import InputPictures
from distri.run.input_pixels import InputLost, SharedPixels
from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings
from pipeline.input_picture import InputMask, InputPicture
from pipeline.records.object_keys import BatchObjects

OBJECTS = BatchObjects("b")


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(settings)


def test_a_mask_has_one_byte_a_pixel(artifacts: Artifacts) -> None:
    picture, _ = _stored(artifacts, 255, "L")
    mask = InputMask(**picture.model_dump(), box=(0, 0, 24, 16))
    png = InputPictures(artifacts, OBJECTS).png(mask)
    assert SharedPixels(Mesh.single()).of(mask, lambda: png).shape == (16, 24)


def test_pixels_are_kept_as_long_as_there_is_room(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_pixels, "KEPT_BYTES", 2 * 24 * 16 * 3)
    stored = [_stored(artifacts, shade) for shade in (1, 2, 3)]
    pixels, asked = SharedPixels(Mesh.single()), list[int]()

    def png(number: int) -> bytes:
        asked.append(number)
        return stored[number][1]

    for number in (0, 1, 0, 2, 0, 1):
        pixels.of(stored[number][0], partial(png, number))
    assert asked == [0, 1, 2, 1]


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
    pictures.ahead(first)
    for picture in (first, second, first):
        pictures.ahead(second)
        pictures.png(picture)
    assert pictures.png(first) == png
    assert len(asked) == 2
    found = SharedPixels(Mesh.single()).of(first, lambda: png)
    assert np.array_equal(found[0, 0], (1, 0, 0))


def test_few_bytes_are_kept(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_pictures, "KEPT_BYTES", 100)
    pictures = InputPictures(artifacts, OBJECTS)
    for shade in range(8):
        pictures.png(_stored(artifacts, shade)[0])
    assert len(pictures._asked) <= 6


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
