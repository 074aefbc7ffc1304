"""What the ledger has of a batch as a whole, read together, and whether each of its keys is what it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import redis

from pipeline.errors import RecordUnreadable, UnknownBatch
from pipeline.ledger.counts import counts_of
from pipeline.ledger.keys import BITS_PER_IMAGE
from pipeline.ledger.store import Store, is_of_wrong_type
from pipeline.records.batch import BatchRecord
from pipeline.schema import read_record
from pipeline.states import BatchState

_RECORDS_KEPT = 500

_STATES: Mapping[str, BatchState] = {state.value: state for state in BatchState}


@dataclass(frozen=True)
class Seen:
    """A batch that is in order.

    Attributes:
        record: its record.
        unfinished: how many of its jobs are not final.
        parked: how many are set aside.
        prioritized: the mark that was left when its jobs were last given its priority, '' without one.
    """

    record: BatchRecord
    unfinished: int
    parked: int
    prioritized: str


# What Redis answered: an exception, in a pipeline, where something else lies in the place of what is ours.


def state_of(batch_id: str, found: str | redis.ResponseError | None) -> BatchState:
    """The state that stands beside a record. Raises RecordUnreadable."""
    state = _STATES.get(found) if isinstance(found, str) else None
    if state is None:
        raise RecordUnreadable(f"state of batch {batch_id}", "something else", "a state")
    return state


@lru_cache(maxsize=_RECORDS_KEPT)
def parsed_batch(batch_id: str, text: str) -> BatchRecord:
    """A record from its text: a batch that is looked at again and again has the same one most of the time."""
    return read_record(BatchRecord, text, what=f"batch {batch_id}")


class Inspections:
    """Looks at batches, many with one round trip."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def inspect(
        self, batch_ids: Sequence[str], *, waiting: bool = True
    ) -> list[tuple[str, Seen | UnknownBatch | RecordUnreadable]]:
        """Each of these batches, or what keeps it from being read.

        Without `waiting`, for who has no right to it, jobs that are set aside and events are not looked at.
        """
        keys = self._store.keys
        with self._store.errors():
            pipe = self._store.redis.pipeline(transaction=False)
            for batch_id in batch_ids:
                pipe.exists(keys.batch(batch_id))
                pipe.hmget(keys.batch(batch_id), "record", "state", "prioritized")
                pipe.hgetall(keys.counts(batch_id))
                pipe.bitfield(keys.images(batch_id)).get(f"u{BITS_PER_IMAGE}", 0).execute()
                pipe.zcard(keys.jobs(batch_id))
                pipe.zcard(keys.begun(batch_id))
                if waiting:
                    pipe.scard(keys.parked(batch_id))
                    pipe.xlen(keys.events(batch_id))
            found = pipe.execute(raise_on_error=False)
            for answer in found:
                if isinstance(answer, redis.ResponseError) and not is_of_wrong_type(answer):
                    raise answer
        each = len(found) // len(batch_ids) if batch_ids else 0
        answers = (found[each * place : each * (place + 1)] for place in range(len(batch_ids)))
        return [(batch_id, self._seen(batch_id, answer)) for batch_id, answer in zip(batch_ids, answers, strict=True)]

    def _seen(self, batch_id: str, found: Sequence[Any]) -> Seen | UnknownBatch | RecordUnreadable:
        there, fields, counts, *others = found
        if not there:
            return UnknownBatch(batch_id)
        text, state, prioritized = fields if isinstance(fields, list) else (None, None, None)
        if not isinstance(text, str):
            return RecordUnreadable(f"batch {batch_id}", "nothing", BatchRecord.__name__)
        if any(isinstance(other, redis.ResponseError) for other in others):
            return RecordUnreadable(f"what is kept of batch {batch_id}", "keys of another type", "the ledger's own")
        try:
            record = parsed_batch(batch_id, text)
            state_of(batch_id, state)
            counts_of(batch_id, counts)
        except RecordUnreadable as error:
            return error
        _images, unfinished, _begun, *waiting = others
        return Seen(record, unfinished, waiting[0] if waiting else 0, prioritized or "")
