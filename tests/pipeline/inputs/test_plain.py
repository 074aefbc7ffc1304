"""Pictures of every kind that people have become plain ones, or are refused in words."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageCms

from pipeline.inputs.masks import opened_mask
from pipeline.inputs.plain import opened_picture, plain_picture
from tests.factories import noise


def _file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _read(body: bytes) -> Image.Image:
    found = plain_picture(body)
    image = Image.open(io.BytesIO(found.png))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (found.width, found.height))
    return image


RED = Image.new("RGB", (24, 16), (200, 40, 30))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_levels_stay_as_they_are(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert _read(_file(RED, kind, **options)).getpixel((3, 3)) == (200, 40, 30)


def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off() -> None:
    grey = Image.new("I;16", (16, 16), 0x8080)
    assert _read(_file(grey)).getpixel((0, 0)) == (128, 128, 128)
    assert _read(_file(grey, "TIFF")).getpixel((0, 0)) == (128, 128, 128)
    assert _read(_file(Image.new("I;16", (16, 16), 0xFFFF))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes_of_all_kinds(mode: str) -> None:
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    white = Image.new("RGB", (16, 16), (255, 255, 255)).convert(mode)
    assert _read(_file(white, kind)).getpixel((5, 5)) == (255, 255, 255)


def test_transparency_is_laid_on_white_and_said() -> None:
    image = Image.new("RGBA", (16, 16), (10, 20, 30, 0))
    image.putpixel((2, 2), (10, 20, 30, 255))
    found = plain_picture(_file(image))
    pixels = Image.open(io.BytesIO(found.png))
    assert (pixels.getpixel((0, 0)), pixels.getpixel((2, 2))) == ((255, 255, 255), (10, 20, 30))
    assert found.notes == ("its transparent parts were laid on white",)
    assert not plain_picture(_file(Image.new("RGBA", (16, 16), (1, 2, 3, 255)))).notes
    grey = plain_picture(_file(Image.new("LA", (16, 16), (7, 0))))
    assert Image.open(io.BytesIO(grey.png)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("highest", [False, True])
def test_one_transparent_level_of_grey_is_found_at_every_depth(bits: int, *, highest: bool) -> None:
    level = 2**bits - 1 if highest else 0
    levels = [level] * 8 + [level ^ 1] * 8
    row = int("".join(f"{one:0{bits}b}" for one in levels), 2).to_bytes(2 * bits, "big")
    body = _grey(bits, row, level)
    alpha = opened_picture(body).alpha
    assert alpha is not None
    assert (alpha.getpixel((0, 0)), alpha.getpixel((12, 0))) == (0, 255)
    with pytest.raises(ValueError, match="a mask with transparent parts"):
        opened_mask(body)


def _grey(bits: int, row: bytes, transparent: int) -> bytes:
    """A PNG of 16x16 equal rows, of which one level is transparent; Pillow writes none of these depths."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    size = (16).to_bytes(4, "big")
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", size + size + bytes((bits, 0, 0, 0, 0))),
            chunk(b"tRNS", transparent.to_bytes(2, "big")),
            chunk(b"IDAT", zlib.compress((b"\0" + row) * 16)),
            chunk(b"IEND", b""),
        )
    )


def test_it_is_turned_upright() -> None:
    image = RED.copy()
    image.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: what is first in the file is at the top right
    turned = _read(_file(image, exif=exif))
    assert (turned.size, turned.getpixel((15, 0))) == ((16, 24), (0, 0, 255))


def test_a_colour_profile_is_converted_and_a_broken_one_is_said() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = _read(_file(RED, icc_profile=srgb))
    assert max(ImageChops.difference(found, RED).tobytes()) <= 1
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # of another kind of pixels
    for profile in (lab, b"no profile"):
        read = plain_picture(_file(RED, icc_profile=profile))
        assert read.notes[0].startswith("its colour profile cannot be used")


def _of_a_camera(image: Image.Image, **options: Any) -> bytes:
    """A JPEG whose index names a second picture: Pillow's MPO."""
    return _file(image, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], **options)


def test_of_a_cameras_jpeg_with_several_pictures_the_first_is_taken_and_this_is_said() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = _of_a_camera(RED, exif=exif, quality=95)
    assert Image.open(io.BytesIO(body)).format == "MPO"
    found = plain_picture(body)
    assert ((found.width, found.height), found.notes) == (
        (16, 24),
        ("2 pictures found in a camera's file; the first was taken, as browsers do",),
    )
    levels = _read(body).getpixel((5, 5))
    assert isinstance(levels, tuple)
    assert max(abs(level - wanted) for level, wanted in zip(levels, (200, 40, 30), strict=True)) < 4
    assert not plain_picture(_file(RED, "JPEG")).notes


def test_of_a_mask_in_a_cameras_jpeg_the_first_picture_is_taken_too() -> None:
    half = Image.new("RGB", (24, 16))
    half.paste((255, 255, 255), (0, 0, 8, 16))
    mask, notes = opened_mask(_of_a_camera(half, quality=95))
    assert mask.getbbox() == (0, 0, 8, 16)
    assert "the first was taken" in notes[0]


def _bomb() -> bytes:
    """A PNG of 16000x16000 pixels in a few hundred KB."""
    head, _, _ = _file(Image.new("L", (16, 16))).partition(b"IHDR")
    size = (16_000).to_bytes(4, "big")
    chunk = b"IHDR" + size + size + b"\x08\x00\x00\x00\x00"
    return head + chunk + zlib.crc32(chunk).to_bytes(4, "big") + _file(Image.new("L", (16, 16)))[33:]


def _animated(kind: str = "WEBP") -> bytes:
    options = {} if kind == "TIFF" else {"duration": 100}
    return _file(RED, kind, save_all=True, append_images=[Image.new("RGB", (24, 16))], **options)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "an empty file"),
        (b"<html><body>not found</body></html>", "a page of HTML found; PNG, JPEG"),
        (b"GIF89a" + bytes(100), "a GIF found"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x00" * 1000, "no picture that is known here"),
        (_file(RED.resize((300, 300)), "JPEG")[:-400], "half a download"),
        (_bomb(), "far more pixels found"),
        (_file(Image.new("RGB", (4, 400))), "4x400 pixels found; sides of 8"),
        (_animated(), "of 2 pictures found; a single picture wanted"),
        (_animated("PNG"), "of 2 pictures found; a single picture wanted"),
        (_animated("TIFF"), "of 2 pictures found; a single picture wanted"),
        (_file(Image.new("F", (16, 16)), "TIFF"), "32-bit floats"),
        (_file(Image.new("I", (16, 16), 70_000), "TIFF"), "pixels of 70000 to 70000 found; 8 or 16 bits a channel"),
        (_file(Image.new("I", (16, 16), -1), "TIFF"), "pixels of -1 to -1 found; 8 or 16 bits a channel"),
    ],
)
def test_what_is_no_such_picture_is_refused_in_words(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_picture(body)


@pytest.mark.parametrize("cut", [lambda size: size // 2, lambda size: size - 100, lambda size: 40])
def test_half_a_png_is_said_to_be_one(cut: Callable[[int], int]) -> None:
    body = _file(noise(64, 64))
    with pytest.raises(ValueError, match=r"half a download|no picture"):
        plain_picture(body[: cut(len(body))])
