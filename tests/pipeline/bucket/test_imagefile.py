"""The files of images: pixels, profile, resolution, and what is written into them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.bucket.imagefile import image_file, record_in, srgb_profile
from pipeline.bucket.metadata.parameters import parameters_text
from pipeline.picture import File, Format, Lora
from pipeline.promptset.names.samplers import known_names, scheduler_of, shown_name
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask
from tests.factories import file_of, image_result, resolved_row

FORMATS = list(Format)


def _result(**changes: Any) -> ImageResult:
    return image_result(ImageTask(resolved_row(**changes), 0))


def _opened(body: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(body))
    image.load()
    return image


def _comment(image: Image.Image) -> str:
    raw: bytes = image.getexif().get_ifd(0x8769)[0x9286]
    return raw.removeprefix(b"UNICODE\x00").decode("utf-16-be")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": 'ü "quoted" & <b> </tessera:record>\nsecond line \u2028 日本 \ufffe'},
        {"prompt": "x" * 20_000, "negative_prompt": "y" * 20_000},
        {"negative_prompt": ""},
        {"metadata": {"a": None, "b": 1.5, "c": True, "d": "\x00"}},
        {"custom_id": "<script>", "loras": (Lora(name="film", scale=0.5),), "scheduler": scheduler_of("DDIM")},
    ],
)
def test_the_file_carries_everything_that_is_known_of_the_image(kind: Format, changes: dict[str, Any]) -> None:
    result = _result(**changes, file=File(format=kind))
    file = file_of(result)
    assert file.has_record
    assert record_in(file.body) == result


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("strip", [False, True])
def test_the_file_says_its_colours_and_resolution_in_every_format(kind: Format, strip: bool) -> None:
    result = _result(width=67, height=72, file=File(format=kind, dpi=240, strip_metadata=strip))
    image = _opened(file_of(result).body)
    assert (image.format, image.mode, image.size) == (kind.name, "RGB", (67, 72))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    dpi = image.getexif()[0x11A] if kind is Format.WEBP else image.info["dpi"][0]
    assert float(dpi) == pytest.approx(240, abs=0.1)


def test_png_keeps_every_pixel_and_the_others_nearly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (72, 64, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(pixels).resize((64, 72)).resize((640, 720), Image.Resampling.BICUBIC))
    for kind, error in ((Format.PNG, 0.0), (Format.JPEG, 3.0), (Format.WEBP, 5.0)):
        result = _result(width=640, height=720, file=File(format=kind, quality=95))
        found = np.asarray(_opened(image_file(smooth, result).body))
        assert np.abs(found.astype(int) - smooth).mean() <= error


@pytest.mark.parametrize("kind", [Format.JPEG, Format.WEBP])
def test_quality_is_heeded(kind: Format) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    sizes = [
        len(image_file(pixels, _result(width=256, height=256, file=File(format=kind, quality=quality))).body)
        for quality in (20, 95)
    ]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("kind", FORMATS)
def test_a_stripped_file_says_nothing_about_the_picture(kind: Format) -> None:
    secret = {
        "prompt": "SECRET one",
        "negative_prompt": "SECRET two",
        "custom_id": "SECRET",
        "metadata": {"k": "SECRET"},
    }
    result = _result(**secret, file=File(format=kind, strip_metadata=True))
    file = file_of(result)
    assert not file.has_record
    assert record_in(file.body) is None
    for encoding in ("utf-8", "utf-16-be", "utf-16-le"):
        assert "SECRET".encode(encoding) not in file.body
    assert b"tessera" not in file.body
    assert file.body == file_of(result.model_copy(update={"seconds": 9.9})).body, "equal pictures are equal files"


def test_what_has_no_room_in_a_jpeg_stays_out_and_the_rest_stays_readable() -> None:
    result = _result(prompt="a" * 20_000, metadata={"k": "v" * 60_000}, file=File(format=Format.JPEG))
    file = file_of(result)
    assert not file.has_record
    assert _comment(_opened(file.body)) == parameters_text(result)
    longest = _result(prompt="ü" * 20_000, negative_prompt="日" * 20_000, file=File(format=Format.JPEG))
    assert _opened(file_of(longest).body).size == (64, 64)


PARAMETERS = (
    "a harbour <lora:film:0.5>\nNegative prompt: blur\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, "
    "CFG scale: 5, Seed: 100, Size: 64x72, Model hash: 70e9ef75f1, Model: demo, Clip skip: 2, RNG: CPU, "
    "Version: tessera 0"
)


@pytest.mark.parametrize("kind", FORMATS)
def test_parameters_read_as_the_web_uis_write_them(kind: Format) -> None:
    result = _result(
        height=72,
        negative_prompt="blur",
        scheduler=scheduler_of("DPM++ 2M Karras"),
        loras=(Lora(name="film", scale=0.5),),
        file=File(format=kind),
    )
    image = _opened(file_of(result).body)
    assert (image.text["parameters"] if kind is Format.PNG else _comment(image)) == PARAMETERS  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", known_names())
def test_a_scheduler_is_shown_by_the_name_it_was_asked_for(name: str) -> None:
    assert shown_name(scheduler_of(name)) == name


def test_the_profile_is_always_the_same_bytes() -> None:
    srgb_profile.cache_clear()
    first = srgb_profile()
    srgb_profile.cache_clear()
    assert srgb_profile() == first


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_has_no_record(kind: Format) -> None:
    body = file_of(_result(width=256, height=256, file=File(format=kind))).body
    assert record_in(body[: len(body) // 3]) is None


@pytest.mark.parametrize("body", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBP"])
def test_what_is_no_picture_of_ours_has_no_record(body: bytes) -> None:
    assert record_in(body) is None
