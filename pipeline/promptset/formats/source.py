"""Open a prompt set wherever it lies: a path, an s3:// URL, standard input, prompts in memory; compressed or not.

Everything streams. Compression is seen in the first bytes, the format in the name, unless it is given.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from pipeline.errors import RequestError, RowError
from pipeline.inputs.gathered import Bucket
from pipeline.promptset.fields.row import Row
from pipeline.promptset.formats.by_form import DEFAULT_OPTIONS, InputFormat, rows_in
from pipeline.promptset.formats.lines import Item, ReadOptions

Prompts = str | Path | Iterable[str | Mapping[str, Any] | Row]

STDIN = "-"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # behind 0x50 to 0x5f: a frame that is passed over
# Four bytes of zstd can stand for 128 KiB, so a chunk for 2 MiB.
_ZSTD_CHUNK_BYTES = 64
_BUFFER_BYTES = 1 << 18
# A prompt set compresses to a tenth or a twentieth. What swells more is equal rows, and few bytes, or no prompt set.
MAX_RATIO, MAX_FREE_BYTES = 200, 256 << 20
MAX_CONTENT_BYTES = 64 << 30
_SUFFIXES = {
    ".jsonl": InputFormat.JSONL,
    ".ndjson": InputFormat.JSONL,
    ".json": InputFormat.JSON,
    ".csv": InputFormat.CSV,
    ".tsv": InputFormat.CSV,
    ".txt": InputFormat.TXT,
    ".xlsx": InputFormat.XLSX,
    ".parquet": InputFormat.PARQUET,
}


@dataclass(frozen=True)
class Source:
    """A prompt set's rows as they come, each with its line: an object, or what is wrong with the line."""

    name: str
    rows: Iterator[tuple[int, Item]]


def open_source(
    prompts: Prompts,
    *,
    input_format: InputFormat | None = None,
    bucket: Bucket | None = None,
    options: ReadOptions = DEFAULT_OPTIONS,
) -> Source:
    """A prompt set, to be read once.

    Args:
        prompts: path, s3:// URL or "-" for standard input; or prompts, objects and rows in memory.
        input_format: what it is, where its name does not show it. Standard input is JSON Lines by default.
        bucket: opens s3:// URLs.
        options: how it is read where its form leaves that open.

    Raises RequestError if there is no such file or its kind is unknown; the rows raise it when the file breaks off.
    """
    if isinstance(prompts, Mapping | Row | bytes):
        raise RequestError(f"a single {type(prompts).__name__} found; a list of prompts or rows wanted: submit([row])")
    if not isinstance(prompts, str | Path):
        return Source("prompts", _in_memory(prompts))
    text = str(prompts)
    if text == STDIN:
        if sys.stdin is None:
            raise RequestError("standard input is closed")
        kind = input_format or InputFormat.JSONL
        return Source("standard input", _read(sys.stdin.buffer, kind, "standard input", options))
    kind = input_format or kind_of(text, is_text=isinstance(prompts, str))
    if text.startswith("s3://"):
        if bucket is None:
            raise RequestError(f"{text}: no deployment is configured whose S3 could be asked")
        return Source(text, _read(_Chunks(bucket.chunks_of(text)), kind, text, options))
    path = Path(prompts)
    if path.is_dir() or not path.exists():
        raise RequestError(f"{shown_path(path)}: no such file")
    return Source(shown_path(path), _of_file(path, kind, options))


def source_of(chunks: Iterator[bytes], kind: InputFormat, name: str, options: ReadOptions = DEFAULT_OPTIONS) -> Source:
    """A prompt set whose bytes come as they are read."""
    return Source(name, _read(_Chunks(chunks), kind, name, options))


def folders_of(prompts: Prompts) -> tuple[Path, ...]:
    """Where paths of rows' images begin: at the prompt set's folder, and in the current one. None if it is in S3."""
    here = (Path.cwd(),)
    if not isinstance(prompts, str | Path) or str(prompts) == STDIN:
        return here
    if str(prompts).startswith("s3://"):
        return ()
    path = Path(prompts).absolute()
    return (path if path.is_dir() else path.parent, *here)


def shown_path(path: Path) -> str:
    """A path as a terminal may show it: names of files may hold anything."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def kind_of(name: str, *, is_text: bool = False) -> InputFormat:
    """How a prompt set of this name is written. Raises RequestError if its end does not say so."""
    plain = name.lower().removesuffix(".gz").removesuffix(".zst")
    for suffix, kind in _SUFFIXES.items():
        if plain.endswith(suffix):
            return kind
    hint = "; a list holds prompts themselves: submit([...])" if is_text else ""
    raise RequestError(
        f"{name[:200]!r} is no path that ends in {', '.join(_SUFFIXES)}, with .gz or .zst or without; say "
        f"--input-format (input_format) if it is one all the same{hint}"
    )


def suffixes() -> list[str]:
    """The ends of names that say how a prompt set is written."""
    return list(_SUFFIXES)


def _in_memory(prompts: Iterable[str | Mapping[str, Any] | Row]) -> Iterator[tuple[int, Item]]:
    for number, item in enumerate(prompts, 1):
        if isinstance(item, str):
            yield number, {"prompt": item}
        elif isinstance(item, Row):
            yield number, item
        elif isinstance(item, Mapping):
            yield number, dict(item)
        else:
            yield number, RowError(number, None, f"{type(item).__name__} found; a prompt or an object wanted")


def _of_file(path: Path, kind: InputFormat, options: ReadOptions) -> Iterator[tuple[int, Item]]:
    try:
        with path.open("rb") as file:
            yield from _read(file, kind, shown_path(path), options)
    except OSError as error:
        raise RequestError(f"{shown_path(path)} cannot be read: {error.strerror or error}") from error


def _read(
    file: IO[bytes] | io.RawIOBase, kind: InputFormat, name: str, options: ReadOptions
) -> Iterator[tuple[int, Item]]:
    # Wrapped again, a file that can already be peeked into would be closed without a word by whoever frees the wrapper.
    peekable = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file))
    with _as_request_errors(name):
        yield from rows_in(io.BufferedReader(_Bounded(peekable, name), _BUFFER_BYTES), kind, name, options)


class _Bounded(io.RawIOBase):
    """A file's content, decompressed as it is read, as long as it does not swell out of all proportion.

    Several compressed members one behind the other are one file. Raises RequestError.
    """

    def __init__(self, file: io.BufferedReader, name: str) -> None:
        self._packed, self._name, self._bytes = _Counted(file), name, 0
        magic = file.peek(4)[:4]
        self._compressed = True
        if magic.startswith(_GZIP):
            self._content: io.BufferedIOBase = gzip.GzipFile(fileobj=cast(io.BufferedReader, self._packed))
        elif magic == _ZSTD or (magic[1:] == _ZSTD_SKIPPABLE and magic[0] >> 4 == 5):
            self._content = io.BufferedReader(_Chunks(_zstd(self._packed)))
        else:
            self._content, self._compressed = file, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._content.readinto1(buffer)
        self._bytes += count
        if self._compressed and self._bytes > MAX_FREE_BYTES + MAX_RATIO * self._packed.bytes:
            raise RequestError(
                f"{self._name}: {self._bytes:,} bytes found in {self._packed.bytes:,} compressed ones; beyond "
                f"{MAX_FREE_BYTES >> 20} MiB at most {MAX_RATIO} times as many wanted. If it is a prompt set all the "
                "same, give it uncompressed"
            )
        if self._bytes > MAX_CONTENT_BYTES:
            raise RequestError(
                f"{self._name}: more than {MAX_CONTENT_BYTES >> 30} GiB found, more than the rows of any batch; split "
                "it into several batches"
            )
        return count


class _Counted:
    """A file to read from, which counts."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.bytes = file, 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self.bytes += len(chunk)
        return chunk


def _zstd(file: _Counted) -> Iterator[bytes]:
    """The content of zstd frames. Raises EOFError if the last is not whole, which zstandard's reader does not."""
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    while chunk := file.read(_ZSTD_CHUNK_BYTES):
        while chunk:
            frame = frame or decompressor.decompressobj()
            yield frame.decompress(chunk)
            chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the end is missing")


@contextmanager
def _as_request_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise RequestError(f"{name}: its compression is broken or it breaks off ({error})") from error


class _Chunks(io.RawIOBase):
    """Chunks as they come, as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
