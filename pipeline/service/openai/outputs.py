"""The output and the errors of a batch as OpenAI's batches have them: one JSON object for each line that was asked.

A line that asked for several pictures is in the output with those that are there, and in the errors for each other.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from pipeline.bucket import outcomes
from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import ObjectGone
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult
from pipeline.service.context import Service
from pipeline.service.links import image_url

# What the ids of a batch's files begin with.
OUTPUT, ERRORS = "output-", "errors-"


def output_lines(service: Service, base: str, batch_id: str) -> Iterator[bytes]:
    """What was rendered, a line for each row; images as URLs. Streams. Raises UnknownBatch."""
    created = int(service.ledger.batches.get(batch_id).updated_at.timestamp())
    results = outcomes.results(service.artifacts, BatchObjects(batch_id), lambda _: None)
    for _row, images in itertools.groupby(results, lambda result: result.row):
        yield _line(_output(service, base, batch_id, list(images), created))


def error_lines(artifacts: Artifacts, batch_id: str) -> Iterator[bytes]:
    """What was not, and why: images that failed or were cancelled, and lines that were refused. Streams.

    A line that cannot be read is left out.
    """
    key = BatchObjects(batch_id).errors
    try:
        lines = artifacts.lines(key)
    except ObjectGone:
        return
    for number, line in enumerate(filter(None, lines), 1):
        try:
            found = dict(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue
        yield _line(
            {
                "id": f"batch_req_{batch_id}-e{number}",
                "custom_id": found.get("custom_id"),
                "response": None,
                "error": {
                    "code": found.get("code"),
                    "message": found.get("message"),
                    "line": found.get("line"),
                    "param": found.get("field"),
                },
            }
        )


def _output(service: Service, base: str, batch_id: str, images: list[ImageResult], created: int) -> dict[str, Any]:
    first = images[0]
    body = {
        "created": created,
        "data": [{"url": image_url(service, base, batch_id, image), "seed": image.seed} for image in images],
        "size": f"{first.width}x{first.height}",
        "output_format": first.file.format.value,
    }
    return {
        "id": f"batch_req_{batch_id}-{first.row}",
        "custom_id": first.custom_id,
        "response": {"status_code": 200, "request_id": f"{batch_id}-{first.row}", "body": body},
        "error": None,
    }


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
