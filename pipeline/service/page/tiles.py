"""The images of a batch as tiles of a grid: id and state of any stretch, however long the batch is."""

from __future__ import annotations

import bisect
import re
from array import array
from functools import lru_cache

from pipeline.bucket.artifacts import Artifacts
from pipeline.ledger import Ledger
from pipeline.names import image_id
from pipeline.records.batch import BatchManifest
from pipeline.records.object_keys import BatchObjects

MOST = 500

# The first of its name in a row's line is the row's own: it stands before the user's metadata, and in texts quotes
# are escaped.
_FIRST_IMAGE = re.compile(rb'(?<!\\)"first_image":(\d+)')


def tiles(ledger: Ledger, artifacts: Artifacts, manifest: BatchManifest, first: int, count: int) -> list[list[str]]:
    """[image id, state] of the images from index `first` on, at most MOST."""
    stretch = range(min(first, manifest.images), min(first + min(count, MOST), manifest.images))
    states = ledger.images.states(manifest.id, stretch)
    starts = None if manifest.rows == manifest.images else _starts(artifacts, _input(manifest))
    return [[_id(index, starts), state.value] for index, state in zip(stretch, states, strict=True)]


def _id(index: int, starts: array[int] | None) -> str:
    if starts is None:  # one image a row
        return image_id(index, 0)
    row = bisect.bisect_right(starts, index) - 1
    return image_id(row, index - starts[row])


def _input(manifest: BatchManifest) -> str:
    return BatchObjects(manifest.id).input(manifest.staged)


@lru_cache(maxsize=16)
def _starts(artifacts: Artifacts, key: str) -> array[int]:
    """The first image of each row, as they were staged: these never change."""
    found = (_FIRST_IMAGE.search(line) for line in artifacts.lines(key))
    return array("Q", (int(match[1]) for match in found if match is not None))
