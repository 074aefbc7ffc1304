"""What comes bit by bit as an answer: an object of the bucket, the part of it that a Range names, lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from starlette.responses import Response, StreamingResponse

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import RequestError
from pipeline.service.refusals import NotFound, Unsatisfiable


def streamed(artifacts: Artifacts, key: str, byte_range: str, headers: Mapping[str, str]) -> Response:
    """The answer. Raises NotFound, Unsatisfiable."""
    try:
        found = artifacts.stream(key, byte_range if byte_range.startswith("bytes=") else "")
    except RequestError as error:
        raise Unsatisfiable(str(error)) from error
    if found is None:
        raise NotFound("it is not there, or not yet")
    sent = {"Content-Length": str(found.size_bytes), "ETag": found.etag, "Accept-Ranges": "bytes", **headers}
    if found.content_range is not None:
        sent["Content-Range"] = found.content_range
    # What lies in the bucket may be HTML: a browser is not to run it in our origin.
    kind = found.content_type if found.content_type.startswith(("image/", "application/")) else "text/plain"
    return begun(found.chunks, kind, 206 if found.content_range is not None else 200, sent)


def begun(
    chunks: Iterator[bytes], media_type: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """An answer of these chunks, the first of them asked for now, while an error can still become an answer."""
    first = next(chunks, b"")
    return StreamingResponse(itertools.chain((first,), chunks), status, headers, media_type)
