"""How large an object of each kind may be where it is read into memory: what is larger is none of ours.

Whoever may write the bucket could otherwise end a controller with one large object.
"""

from __future__ import annotations

from pipeline.input_picture import MAX_SIDE_PX
from pipeline.records.object_keys import BATCHES

RECORD_BYTES = 4 << 20  # four texts of 20,000 characters, metadata, and once more what was cut off of the texts
LINES_BYTES = 512 << 20  # a thousand of the largest records; results.jsonl and input.jsonl are read line by line
TRACE_BYTES = 64 << 20
THUMBNAIL_BYTES = 1 << 20


def largest_image(width: int, height: int) -> int:
    """In bytes, of a file of so many pixels: three a pixel, twice that for noise, and what it says of itself."""
    return 6 * width * height + RECORD_BYTES


_OF_BATCH = {
    "images": largest_image(MAX_SIDE_PX, MAX_SIDE_PX),
    "thumbnails": THUMBNAIL_BYTES,
    "traces": TRACE_BYTES,
    "shards": LINES_BYTES,
    "fragments": LINES_BYTES,
    "gallery": LINES_BYTES,
    "staged": LINES_BYTES,
    "results.jsonl": LINES_BYTES,
    "errors.jsonl": LINES_BYTES,
}


def largest(key: str) -> int:
    """In bytes, of the object under this key."""
    if key.endswith(".json"):
        return TRACE_BYTES if "/traces/" in key else RECORD_BYTES
    if not key.startswith(BATCHES):
        return LINES_BYTES  # the digests of a schedule's rows
    return _OF_BATCH.get("".join(key.split("/")[2:3]), RECORD_BYTES)
