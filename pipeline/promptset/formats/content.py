"""What a file's first bytes say that it is: UTF-16 becomes UTF-8, and what is no text at all is refused by its name."""

from __future__ import annotations

import codecs
import io
import re
from typing import Any

from pipeline.errors import RequestError

_PEEKED_BYTES = 4096
ZIP, PARQUET = b"PK\x03\x04", b"PAR1"
_BOMS = ((codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_AS_TEXT = "save it as text: a prompt a line, CSV or JSON Lines"
# What begins so: what it is, and what to do.
_MAGIC = (
    (ZIP, "a zip archive, as Excel, Word and LibreOffice write", "name a table .xlsx, or save it as CSV"),
    (PARQUET, "a Parquet file", "name it .parquet"),
    (b"%PDF-", "a PDF", _AS_TEXT),
    (b"{\\rtf", "Rich Text (RTF)", f"{_AS_TEXT} (in TextEdit: Format, Make Plain Text)"),
    (b"\xd0\xcf\x11\xe0", "a document of Office 97 to 2003", "save a table as .xlsx or CSV"),
    (b"\x89PNG", "a PNG image", "tessera extract makes rows of images"),
    (b"\xff\xd8\xff", "a JPEG image", "tessera extract makes rows of images"),
    (b"GIF8", "a GIF image", _AS_TEXT),
    (b"RIFF", "a WebP image or another RIFF file", "tessera extract makes rows of images"),
    (b"BZh", "compressed by bzip2", "gzip or zstd wanted, or the file as it was"),
    (b"\xfd7zXZ", "compressed by xz", "gzip or zstd wanted, or the file as it was"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"SQLite format 3", "a SQLite database", _AS_TEXT),
)
_HTML = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body|table)\b", re.I | re.S
)


def as_utf8(file: io.BufferedReader, name: str) -> io.BufferedReader:
    """The file as UTF-8. Raises RequestError if it is no text, saying what it is."""
    begin = file.peek(_PEEKED_BYTES)[:_PEEKED_BYTES]
    for bom, encoding in _BOMS:
        if begin.startswith(bom):
            file.read(len(bom))
            return io.BufferedReader(_Decoded(file, encoding, name))
    for magic, what, wanted in _MAGIC:
        if begin.removeprefix(codecs.BOM_UTF8).startswith(magic):
            raise RequestError(f"{name}: {what} found; {wanted}")
    if _HTML.match(begin.removeprefix(codecs.BOM_UTF8)):
        raise RequestError(f"{name}: HTML found, a page and not the file that it may link to; {_AS_TEXT}")
    if begin.removeprefix(codecs.BOM_UTF8).startswith(b"<?xml"):
        raise RequestError(f"{name}: XML found; {_AS_TEXT}")
    line = begin.partition(b"\n")[0]  # of a later line, zeros cost that line alone
    zeros = [line[start::2].count(b"\0") for start in (0, 1)]
    if max(zeros) > 0.3 * len(line) and min(zeros) < 0.05 * len(line):
        raise RequestError(f"{name}: UTF-16 without a byte order mark found; save it as UTF-8")
    if sum(zeros) > 0.02 * len(line):
        raise RequestError(f"{name}: bytes of zero found, which no text has; {_AS_TEXT}")
    return file


class _Decoded(io.RawIOBase):
    """A text in another encoding, as UTF-8. Raises RequestError where it is none."""

    def __init__(self, file: io.BufferedReader, encoding: str, name: str) -> None:
        self._file, self._name, self._encoding = file, name, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            chunk = self._file.read(1 << 16)
            self._ended = not chunk
            try:
                self._left = self._decoder.decode(chunk, final=self._ended).encode()
            except UnicodeError as error:
                raise RequestError(f"{self._name}: not {self._encoding.upper()}, as its first bytes say") from error
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
