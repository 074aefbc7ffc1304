"""Pictures of other batches, for rows to begin with: what they rendered, and what they began with themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch_manifest
from pipeline.bucket.outcomes import results
from pipeline.errors import RecordUnreadable, RequestError
from pipeline.inputs.gathered import InputPictures
from pipeline.inputs.paths import NOTHING_SENT, SentPaths
from pipeline.inputs.plain import MAX_BYTES
from pipeline.inputs.reference import OfBatch, OfInput
from pipeline.names import checked_batch_id
from pipeline.operations.uploads import get_picture
from pipeline.records.object_keys import BatchObjects


def no_urls(_url: str) -> None:
    """Refuse an image's s3:// URL. Raises RequestError."""
    raise RequestError(
        "an s3:// URL found, which is not read here; upload://ID, an uploaded picture, or batch://ID/CUSTOM_ID, "
        "an image of a batch, wanted"
    )


def any_url(_url: str) -> None:
    """Let an image's s3:// URL be read: the rights are those of whoever submits."""


def inputs_of(
    artifacts: Artifacts | None,
    tenant: str,
    folders: Sequence[Path],
    check_url: Callable[[str], object],
    *,
    keep: Path | None = None,
    sent: SentPaths = NOTHING_SENT,
) -> InputPictures:
    """What reads the pictures that rows begin with; without a bucket only those of files."""
    if artifacts is None:
        return InputPictures(folders)
    return InputPictures(
        folders,
        artifacts,
        of_batch=BatchPictures(artifacts, tenant).body,
        sent=sent,
        of_upload=partial(get_picture, artifacts, tenant),
        check_url=check_url,
        keep=keep,
    )


class BatchPictures:
    """Finds them in the bucket. Of each batch the results are read once.

    Args:
        artifacts: where batches lie.
        tenant: whose batches may be named.
    """

    def __init__(self, artifacts: Artifacts, tenant: str) -> None:
        self._artifacts, self._tenant = artifacts, tenant
        self._keys: dict[str, dict[tuple[str, int], str]] = {}

    def body(self, reference: OfBatch | OfInput) -> bytes:
        """The file. Raises RequestError if there is none, StoreUnavailable."""
        if isinstance(reference, OfInput):
            self._check(reference.batch)
            key = BatchObjects(reference.batch).input_picture(reference.sha256)
            wanted = f"batch {reference.batch!r} has no such picture to begin with"
        else:
            if reference.batch not in self._keys:
                self._check(reference.batch)
                self._keys[reference.batch] = self._images(reference.batch)
            found = self._keys[reference.batch].get((reference.custom_id, reference.number))
            wanted = f"batch {reference.batch!r} has no image {reference.number} of row {reference.custom_id[:80]!r}"
            if found is None:
                raise RequestError(wanted)
            key = found
        body = self._artifacts.get(key, MAX_BYTES)
        if body is None:
            raise RequestError(f"{wanted} any more")
        return body

    def _check(self, batch_id: str) -> None:
        """Raise RequestError if there is no such batch of this tenant."""
        try:
            manifest = fetch_manifest(self._artifacts, checked_batch_id(batch_id))
        except RecordUnreadable as error:
            raise RequestError(f"batch {batch_id!r}: {error}") from error
        if manifest is None or manifest.tenant != self._tenant:
            raise RequestError(f"tenant {self._tenant!r} has no batch {batch_id!r}")

    def _images(self, batch_id: str) -> dict[tuple[str, int], str]:
        found = results(self._artifacts, BatchObjects(batch_id), on_unreadable=lambda _: None)
        return {(one.custom_id, one.number): one.key for one in found}
