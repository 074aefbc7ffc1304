"""Which rows of a prompt set changed since the last firing: sixteen bytes a row, kept in S3."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import re
from collections.abc import Set

from pipeline.errors import RecordUnreadable
from pipeline.promptset.fields.row import ResolvedRow

DIGEST_BYTES = 16

_SHA256_IN_KEY = re.compile(r"-([0-9a-f]{64})\.bin$")

# A row's place says nothing about its pictures. What a newer version adds is left out while it is at its default.
_PLACE = {"row", "first_image", "schema_version"}


def row_digest(row: ResolvedRow) -> bytes:
    """A digest of everything that decides the pictures of a row, and of its custom_id."""
    text = row.model_dump_json(exclude=_PLACE, exclude_defaults=True)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def checked_digests(body: bytes, key: str) -> bytes:
    """The digests that lie under a key, as they were written: the key ends in their SHA-256.

    An earlier version wrote no SHA-256 there; then they must at least be some, whole and sorted. Raises
    RecordUnreadable.
    """
    if (proof := _SHA256_IN_KEY.search(key)) is not None:
        is_right = hashlib.sha256(body).hexdigest() == proof[1]
    else:
        is_right = len(body) > 0 and len(body) % DIGEST_BYTES == 0 and _is_sorted(body)
    if not is_right:
        raise RecordUnreadable(key, f"{len(body)} bytes that are not those that were written", "digests of rows")
    return body


def _is_sorted(body: bytes) -> bool:
    digests = (body[i : i + DIGEST_BYTES] for i in range(0, len(body), DIGEST_BYTES))
    return all(one <= following for one, following in itertools.pairwise(digests))


class NewRows:
    """Tells of each row whether it is new, and remembers the digests of all rows for the next firing.

    Args:
        before: sorted digests of the rows of the last firing, one after the other.
        again: digests of rows that are wanted although they are not new: their pictures were never rendered.
    """

    def __init__(self, before: bytes, again: Set[bytes]) -> None:
        self._before, self._again = memoryview(before), again
        self._seen = bytearray()

    def wants(self, row: ResolvedRow) -> bool:
        """Whether the row is to be rendered."""
        digest = row_digest(row)
        self._seen += digest
        return digest in self._again or not self._was_there(digest)

    def _was_there(self, digest: bytes) -> bool:
        def at(index: int) -> bytes:
            return bytes(self._before[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])

        count = len(self._before) // DIGEST_BYTES
        place = bisect.bisect_left(range(count), digest, key=at)
        return place < count and at(place) == digest

    def packed(self) -> bytes:
        """Digests of all rows that were asked about, sorted: the next firing's `before`."""
        return b"".join(sorted(self._seen[i : i + DIGEST_BYTES] for i in range(0, len(self._seen), DIGEST_BYTES)))
