"""Images of a batch from a place on, without reading those before it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch
from pipeline.errors import RecordUnreadable
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult


def results_from(artifacts: Artifacts, objects: BatchObjects, row: int, number: int) -> Iterator[ImageResult]:
    """The images that are there from this one on, in the order of the rows; one that cannot be read is left out.

    Their sidecars are read, one by one, as they are asked for.
    """
    begin = objects.sidecar(row, number).rpartition(".")[0]
    keys = artifacts.list_from(objects.root + "images/", begin)
    for stem, group in itertools.groupby(keys, lambda key: key.rpartition(".")[0]):
        if len(list(group)) < 2:  # a sidecar is written before its image, so it alone proves nothing
            continue
        key = f"{stem}.json"
        try:
            result = fetch(ImageResult, artifacts, key)
        except RecordUnreadable:
            continue
        if (
            result is not None
            and result.batch_id == objects.batch_id
            and key == objects.sidecar(result.row, result.number)
        ):
            yield result
