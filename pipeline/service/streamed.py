"""What comes bit by bit as an answer: an object of the bucket, the part of it that a Range names, lines."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header
from starlette.responses import Response, StreamingResponse

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import RequestError
from pipeline.service.refusals import NotFound, Unsatisfiable

_TAG = re.compile(r'"[^"]*"')


@dataclass(frozen=True)
class Wanted:
    """What a request says of the part and of the version of an object that it wants (RFC 9110, sections 13 and 14)."""

    byte_range: str
    if_range: str
    if_none_match: str

    def is_had(self, etag: str) -> bool:
        """Whether who asks has this version already."""
        return self.if_none_match.strip() == "*" or etag in _TAG.findall(self.if_none_match)

    def part_of(self, etag: str) -> str:
        """The part that is wanted of this version; all of it if a part of another was asked for."""
        return self.byte_range if self.if_range in ("", etag) else ""


async def _wanted(
    byte_range: Annotated[str, Header(alias="Range")] = "",
    if_range: Annotated[str, Header(alias="If-Range")] = "",
    if_none_match: Annotated[str, Header(alias="If-None-Match")] = "",
) -> Wanted:
    return Wanted(byte_range if byte_range.startswith("bytes=") else "", if_range.strip(), if_none_match)


WantedOf = Annotated[Wanted, Depends(_wanted)]


def streamed(artifacts: Artifacts, key: str, wanted: Wanted, headers: Mapping[str, str]) -> Response:
    """The answer. Raises NotFound, Unsatisfiable."""
    byte_range = wanted.byte_range
    if wanted.if_none_match or (byte_range and wanted.if_range):
        if (there := artifacts.head(key)) is None:
            raise _not_there()
        if wanted.is_had(there.etag):
            return Response(status_code=304, headers={"ETag": there.etag, **headers})
        byte_range = wanted.part_of(there.etag)
    try:
        found = artifacts.stream(key, byte_range)
    except RequestError as error:
        raise Unsatisfiable(str(error)) from error
    if found is None:
        raise _not_there()
    sent = {"Content-Length": str(found.size_bytes), "ETag": found.etag, "Accept-Ranges": "bytes", **headers}
    if found.content_range is not None:
        sent["Content-Range"] = found.content_range
    # What lies in the bucket may be HTML: a browser is not to run it in our origin.
    kind = found.content_type if found.content_type.startswith(("image/", "application/")) else "text/plain"
    return begun(found.chunks, kind, 206 if found.content_range is not None else 200, sent)


def _not_there() -> NotFound:
    return NotFound("it is not there, or not yet")


def begun(
    chunks: Iterator[bytes], media_type: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """An answer of these chunks, the first of them asked for now, while an error can still become an answer."""
    first = next(chunks, b"")
    return StreamingResponse(itertools.chain((first,), chunks), status, headers, media_type)
