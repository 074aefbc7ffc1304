"""Texts of files, and what hostile ones cost."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import piexif
import piexif.helper
import pytest
from PIL import Image

from pipeline.outputs.foreign.found import NotCarriedOver
from pipeline.outputs.foreign.read import foreign_picture
from pipeline.outputs.foreign.texts import MAX_TEXT_BYTES, UnreadableTexts, texts_in
from pipeline.outputs.pictures import picture_rows
from tests.pipeline.outputs.foreign.files import commented, png_with

WIDE = "a harbour 日本 ü\nSteps: 2, Sampler: Euler"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(*chunks: bytes) -> bytes:
    """A PNG that has these chunks behind its picture."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    end = _chunk(b"IEND", b"")
    return file.getvalue().removesuffix(end) + b"".join(chunks) + end


@pytest.mark.parametrize("text", ["plain", "caf\xe9", WIDE])
def test_text_chunks_of_all_three_kinds_are_read_also_behind_the_picture(text: str) -> None:
    narrow = text.encode("latin-1", "replace")
    body = _png(
        _chunk(b"iTXt", b"a\x00\x00\x00\x00\x00" + text.encode()),
        _chunk(b"iTXt", b"b\x00\x01\x00en\x00b\x00" + zlib.compress(text.encode())),
        _chunk(b"zTXt", b"c\x00\x00" + zlib.compress(narrow)),
        _chunk(b"tEXt", b"d\x00" + narrow),
        _chunk(b"tEXt", b"d\x00a second one"),
    )
    assert texts_in(body) == {"a": text, "b": text, "c": narrow.decode("latin-1"), "d": narrow.decode("latin-1")}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(("text", "encoding"), [(WIDE, "unicode"), ("plain", "unicode"), ("plain", "ascii")])
def test_the_comment_of_jpeg_and_webp_is_read(kind: str, text: str, encoding: str) -> None:
    assert texts_in(commented(kind, text, encoding))["UserComment"] == text


def test_a_comment_in_the_other_byte_order_is_read() -> None:
    comment = b"UNICODE\x00" + "a harbour 日本".encode("utf-16-le")
    file = io.BytesIO()
    exif = piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}})
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif)
    assert texts_in(file.getvalue())["UserComment"] == "a harbour 日本"


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"zTXt", b"parameters\x00\x00" + zlib.compress(bytes(1 << 26), 9)),
        _chunk(b"iTXt", b"prompt\x00\x01\x00\x00\x00" + zlib.compress(bytes(1 << 26), 9)),
        _chunk(b"tEXt", b"prompt\x00" + b"x" * (MAX_TEXT_BYTES + 1)),
        _chunk(b"zTXt", b"parameters\x00\x00not deflated"),
        b"".join(_chunk(b"tEXt", b"%d\x00x" % number) for number in range(100)),
    ],
    ids=["zTXt bomb", "iTXt bomb", "too long", "broken", "too many"],
)
def test_a_text_that_swells_is_broken_or_comes_too_often_is_refused(chunk: bytes) -> None:
    with pytest.raises(UnreadableTexts):
        texts_in(_png(chunk))


@pytest.mark.parametrize("graph", ['{"1": ' * 50_000, '{"class_type"', '{"1": {"class_type": "SaveImage"'])
def test_json_that_is_deep_or_broken_is_refused(graph: str) -> None:
    with pytest.raises(NotCarriedOver, match=r"brackets within brackets|broken JSON"):
        foreign_picture(png_with(prompt=graph))


@pytest.mark.parametrize(
    "body", [png_with(parameters=WIDE), commented("JPEG", WIDE, "unicode"), commented("WEBP", WIDE, "unicode")]
)
def test_damage_of_any_kind_is_refused_or_read_and_never_fails(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "x.png"
    problems: list[str] = []

    def refuse(_path: Path, why: str) -> None:
        problems.append(why)

    for cut in range(0, len(body), max(1, len(body) // 30)):
        for damaged in (body[:cut], body[:cut] + bytes([255 - body[cut]]) + body[cut + 1 :]):
            path.write_bytes(damaged)
            problems.clear()
            found = list(picture_rows([path], refused=refuse))
            assert len(found) + len(problems) == 1
