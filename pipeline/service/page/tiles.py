"""The images of a batch as tiles of a grid: id and state of any stretch, however long the batch is."""

from __future__ import annotations

import bisect
import itertools
import json
import re
from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache

from pipeline.bucket.artifacts import Artifacts
from pipeline.ledger import Ledger
from pipeline.names import image_id
from pipeline.records.batch import BatchManifest
from pipeline.records.object_keys import BatchObjects
from pipeline.states import ImageState

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


def found_tiles(
    ledger: Ledger, artifacts: Artifacts, manifest: BatchManifest, text: str, state: ImageState | None
) -> list[list[str | int]]:
    """[image id, state, index, custom_id] of the first images that are meant, one more than MOST if there are more.

    Args:
        text: what stands in any case in custom_id, prompt or negative prompt of their rows; empty: anything.
        state: theirs; None: any.
    """
    found: list[list[str | int]] = []
    images = (
        _with_text(artifacts.lines(_input(manifest)), text) if text else _in_state(ledger, artifacts, manifest, state)
    )
    while len(found) <= MOST and (some := list(itertools.islice(images, MOST + 1))):
        states = ledger.images.states(manifest.id, [index for _, index, _ in some])
        found += [
            [name, has.value, index, custom_id]
            for (name, index, custom_id), has in zip(some, states, strict=True)
            if state in (None, has)
        ]
    return found[: MOST + 1]


def _in_state(
    ledger: Ledger, artifacts: Artifacts, manifest: BatchManifest, state: ImageState | None
) -> Iterator[tuple[str, int, str]]:
    starts = None if manifest.rows == manifest.images else _starts(artifacts, _input(manifest))
    every = range(manifest.images)
    for index in every if state is None else ledger.images.in_state(manifest.id, state, manifest.images):
        yield _id(index, starts), index, ""


def _with_text(lines: Iterable[bytes], text: str) -> Iterator[tuple[str, int, str]]:
    """Images of the rows that have this text. Most lines are passed over as they stand: they do not hold it at all."""
    wanted = text.casefold()
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
    ascii_only = re.compile(re.escape(quoted.encode()), re.IGNORECASE) if quoted.isascii() else None
    folded = quoted.casefold()
    for line in lines:
        if ascii_only is not None:
            if ascii_only.search(line) is None:
                continue
        elif folded not in line.decode(errors="replace").casefold():
            continue
        row = json.loads(line)
        texts = (row["custom_id"], row["prompt"], row.get("negative_prompt"))
        if any(wanted in (one or "").casefold() for one in texts):
            for number in range(row.get("num_images", 1)):
                yield image_id(row["row"], number), row["first_image"] + number, row["custom_id"]


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
