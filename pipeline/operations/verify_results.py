"""Compare files of a batch with what is known of them: its rows with the manifest, its results with the marker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.bucket.artifacts import Artifacts
from pipeline.process.files import spool
from pipeline.records.batch import BatchManifest
from pipeline.records.end_marker import EndMarker, FileDigest
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, ImageState


def wrong_results(
    artifacts: Artifacts, objects: BatchObjects, marker: EndMarker, proved: Mapping[ImageState, int]
) -> Iterator[str]:
    """Keys of results.jsonl and errors.jsonl, where they are gone or not what they were.

    `proved` is how many images of each state there are; it is asked where the marker vouches for no bytes.
    """
    results, errors = objects.results, objects.errors
    if (vouched := marker.vouched) is not None:
        for key, wanted in ((results, vouched.results), (errors, vouched.errors)):
            if _digest(artifacts, key) != wanted:
                yield key
    elif marker.state is not BatchState.FAILED:  # which may have none
        if _lines(artifacts, results) != proved[ImageState.SUCCEEDED]:
            yield results
        # Rows that were left out have lines there, too.
        if _lines(artifacts, errors) < proved[ImageState.FAILED] + proved[ImageState.CANCELLED]:
            yield errors


def has_input(artifacts: Artifacts, objects: BatchObjects, manifest: BatchManifest, *, deep: bool) -> bool:
    """Whether the accepted rows are there; `deep` reads whether they are the accepted ones."""
    key = objects.input(manifest.staged)
    if not deep:
        return artifacts.head(key) is not None
    found = _digest(artifacts, key)
    return found is not None and found.sha256 == manifest.input_sha256


def _lines(artifacts: Artifacts, key: str) -> int:
    return sum(1 for _ in artifacts.lines(key)) if artifacts.head(key) is not None else -1


def _digest(artifacts: Artifacts, key: str) -> FileDigest | None:
    with spool() as file:
        digest = artifacts.copy_to(key, file)
        return FileDigest(sha256=digest, size_bytes=file.tell()) if digest is not None else None
