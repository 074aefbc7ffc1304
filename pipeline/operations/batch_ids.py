"""Batches as people name them: by id, by the beginning of an id that only one has, or as `last`."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import RequestError
from pipeline.ledger import Ledger
from pipeline.names import ID, LAST

# A beginning is looked for among so many, newest first.
SEARCHED = 10_000
_SHOWN = 5


def full_id(ledger: Ledger, named: str) -> str:
    """The id of the batch that is meant; the text itself if there is none, whose own error is clearer then.

    Raises RequestError if several batches begin so.
    """
    if not ID.fullmatch(named) or ledger.batches.known(named):
        return named
    return meant(named, ledger.batches.newest(1 if named == LAST else SEARCHED))


def meant(named: str, newest: Sequence[str]) -> str:
    """The one of these batches, newest first, that is meant; the text itself if there is none. Raises RequestError."""
    if named == LAST:
        return newest[0] if newest else named
    if named in newest:
        return named
    found = [batch_id for batch_id in newest if batch_id.startswith(named)]
    if len(found) > 1:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise RequestError(f"{len(found)} batches begin with {named!r}: {', '.join(found[:_SHOWN])}{more}; say which")
    return found[0] if found else named


def ids_beginning(ledger: Ledger, named: str, most: int = 100) -> list[str]:
    """The ids of the newest batches that begin so, for a shell to complete."""
    return [batch_id for batch_id in ledger.batches.newest(SEARCHED) if batch_id.startswith(named)][:most]
