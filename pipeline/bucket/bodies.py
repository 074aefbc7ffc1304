"""Bodies of objects that somebody else may have written: read within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from pipeline.errors import RecordUnreadable


class Body(Protocol):
    """What S3's client reads an object from."""

    def read(self, amt: int) -> bytes:
        """At most `amt` bytes, fewer only at the end."""

    def close(self) -> None:
        """Close the connection, without reading what is left."""


def read_at_most(body: Body, most_bytes: int, *, what: str) -> bytes:
    """The whole body. Raises RecordUnreadable, having read no more than a byte too much, if it is larger."""
    found = body.read(most_bytes)
    if body.read(1):  # only at the end it shows, too, that a connection broke off
        body.close()
        raise RecordUnreadable(what, f"an object of more than {most_bytes:,} bytes", f"at most {most_bytes:,}")
    return found


def split_lines(chunks: Iterable[bytes], longest: int) -> Iterator[bytes]:
    """The lines of a body, without their ends. Of one that is longer than `longest` bytes, its beginning."""
    begun = bytearray()
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            if begun:
                begun += line[: longest - len(begun)]
                yield bytes(begun)
                begun.clear()
            else:
                yield line[:longest]
        begun += rest[: longest - len(begun)]
    if begun:
        yield bytes(begun)
