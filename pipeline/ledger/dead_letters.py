"""Messages that were no hints: taken out of a queue, kept for whoever wants to know who sent them, and for a week."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pipeline.ledger.store import Store
from pipeline.schema import Versioned, read_record
from pipeline.stored import Moment

KEPT = 100
KEPT_S = 7 * 24 * 3600
BEGINNING_CHARACTERS = 500


class Malformed(StrEnum):
    """Why a message is no hint."""

    TOO_LARGE = "too_large"
    NO_ENVELOPE = "no_envelope"  # no JSON, or without the parts of a task's message
    UNKNOWN_TASK = "unknown_task"  # another program's, or a newer version's: the ledger has what it is about
    BODY = "body"  # in another encoding, or no arguments
    ARGUMENTS = "arguments"  # not what the task takes
    NO_QUEUE = "no_queue"  # a key of another type stood in the queue's place
    REMOTE_CONTROL = "remote_control"  # no envelope, on the channel by which probes ask


class DeadLetter(Versioned):
    """One such message. `beginning` is how it began, as Python's `repr` shows bytes."""

    schema_version: int = 1
    at: Moment
    queue: str
    reason: str
    found: str
    size_bytes: int
    beginning: str


class DeadLetters:
    """The last of them, newest first; bounded in number and size, so that a flood costs no memory."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, queue: str, reason: Malformed, found: str, raw: bytes) -> None:
        """Keep one; the oldest goes if there are too many."""
        letter = DeadLetter(
            at=self._store.now(),
            queue=queue,
            reason=reason.value,
            found=found[:BEGINNING_CHARACTERS],
            size_bytes=len(raw),
            beginning=repr(raw[:BEGINNING_CHARACTERS])[2:-1][:BEGINNING_CHARACTERS],
        )
        key = self._store.keys.dead_letters
        with self._store.errors():
            pipe = self._store.redis.pipeline()
            pipe.lpush(key, letter.model_dump_json())
            pipe.ltrim(key, 0, KEPT - 1)
            pipe.expire(key, KEPT_S)
            pipe.execute()

    def newest(self, limit: int = KEPT) -> Sequence[DeadLetter]:
        """The last ones, newest first. Raises LedgerUnavailable, RecordUnreadable."""
        with self._store.errors():
            found = self._store.redis.lrange(self._store.keys.dead_letters, 0, limit - 1)
        return [read_record(DeadLetter, text, what="a dead letter") for text in found]

    def discard_unless_list(self, key: str) -> bool:
        """Remove what stands in a queue's place and is no list; True if there was something."""
        with self._store.errors():
            if self._store.redis.type(key) in ("list", "none"):
                return False
            return bool(self._store.redis.unlink(key))
