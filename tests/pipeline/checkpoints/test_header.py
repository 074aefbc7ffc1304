from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoints.hashes import hashes_of
from pipeline.checkpoints.header import MAX_HEADER_BYTES, read_header
from pipeline.errors import BadCheckpoint


def _bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def _entry(start: int = 0, end: int = 8, dtype: str = "F32", shape: Any = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_header_is_read_without_its_data(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(_bytes({"__metadata__": {"modelspec.title": "x"}, "a": _entry()}, bytes(8)))
    header = read_header(path)
    assert header.tensors["a"].shape == (2,)
    assert header.metadata == {"modelspec.title": "x"}


DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is empty"),
    "html": (b"\n<!DOCTYPE html><html><head>Log in to Civitai", "it is a web page"),
    "html with a mark": (b"\xef\xbb\xbf<HTML>", "it is a web page"),
    "json": (b'{"error": "Unauthorized"}', "a server's error message"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6938040682\n", "pointer of Git LFS"),
    "pickle": (b"\x80\x02}q\x00X\x05\x00\x00\x00state", "it is a pickle"),
    "gguf": (b"GGUF\x03\x00\x00\x00more", "GGUF"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00", "compressed archive"),
    "zeros": (bytes(4096), "all zero"),
    "short": (b"\x01\x02", "it has 2 bytes"),
    "text": (b"a very long text of something else", "no JSON object follows"),
    "length of petabytes": (_bytes(b'{"a":1}', length=2**62), r"has 4,611,686,018,427,387,904 bytes; at most 16"),
    "length over the limit": (_bytes(b"{}", length=MAX_HEADER_BYTES + 1), "at most 16,000,000 wanted"),
    "length over the end": (_bytes(b'{"a":1}', length=5000), r"cut off: .* 4,993 bytes or more are missing"),
    "half a download": (_bytes({"a": _entry(0, 4000, shape=[1000])}, bytes(1000)), "3,000 bytes are missing"),
    "bytes behind": (_bytes({"a": _entry()}, bytes(9)), "1 bytes follow its last tensor"),
    "no JSON": (_bytes(b"{not json"), "no JSON text"),
    "deep brackets": (_bytes(b'{"a":' + b"[" * 200_000), "no JSON text"),
    "twins": (_bytes(b'{"a": 1, "a": 2}'), "a name is there twice"),
    "no offsets": (_bytes({"a": {"dtype": "F32", "shape": [2]}}), "lacks a dtype, a shape or data_offsets"),
    "negative shape": (_bytes({"a": _entry(shape=[-2])}), "no numbers"),
    "shape of text": (_bytes({"a": _entry(shape=["2"])}), "no numbers"),
    "offsets swapped": (_bytes({"a": _entry(8, 0)}), "contradicts itself"),
    "overlap": (_bytes({"a": _entry(0, 8), "b": _entry(4, 12)}, bytes(12)), "'b' begins at 4"),
    "hole": (_bytes({"a": _entry(0, 8), "b": _entry(16, 24)}, bytes(24)), "'b' begins at 16"),
    "shape too large": (_bytes({"a": _entry(shape=[2**40, 2**40])}, bytes(8)), "contradicts itself"),
    "unknown type": (_bytes({"a": _entry(dtype="Q4_K")}, bytes(8)), "'Q4_K', which is not known"),
    "type of no name": (_bytes({"a": _entry() | {"dtype": ["F32"]}}, bytes(8)), "which is not known"),
    "metadata of numbers": (_bytes({"__metadata__": 3}), "__metadata__ is no JSON object"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_that_is_none_or_lies_is_refused_by_what_it_is(tmp_path: Path, what: str) -> None:
    content, message = DAMAGED[what]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=message):
        read_header(path)


def test_a_zip_bomb_is_named_and_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(10_000_000))
    with pytest.raises(BadCheckpoint, match="zip archive"):
        read_header(path)


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth", ".bin"])
def test_a_pickle_is_refused_by_its_ending_before_it_is_opened(tmp_path: Path, ending: str) -> None:
    with pytest.raises(BadCheckpoint, match="only safetensors are read: convert it"):
        read_header(tmp_path / f"model{ending}")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(BadCheckpoint, match="is no file"):
        read_header(tmp_path / "pipe.safetensors")


def test_hashes_are_those_that_web_uis_show(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(_bytes({"a": _entry()}, b"12345678"))
    found = hashes_of(path)
    assert found.autov2 == found.sha256[:10]
    # SHA-256 of the eight bytes behind the header.
    assert found.autov3 == "ef797c8118f0"
