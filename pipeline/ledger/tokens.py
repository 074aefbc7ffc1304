"""Tokens of the HTTP API, and how often each was used this minute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.ledger.store import Store
from pipeline.records.tokens import TokenRecord
from pipeline.schema import read_record


@dataclass(frozen=True)
class Use:
    """A token that was used: its record, how many uses there were in this minute, and the ledger's time."""

    record: TokenRecord
    this_minute: int
    at: datetime


class Tokens:
    """Records by the public part of a token, its id."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, record: TokenRecord) -> None:
        """Put a new token's record."""
        with self._store.errors():
            self._store.redis.hset(self._store.keys.tokens, record.id, record.model_dump_json())

    def revoke(self, token_id: str) -> bool:
        """Forget a token, which counts no more from now on; False if there is none."""
        with self._store.errors():
            return bool(self._store.redis.hdel(self._store.keys.tokens, token_id))

    def each(self) -> Iterator[TokenRecord]:
        """All of them, in the order of their making. Raises RecordUnreadable."""
        with self._store.errors():
            found = self._store.redis.hgetall(self._store.keys.tokens)
        records = [read_record(TokenRecord, text, what=f"token {name}") for name, text in found.items()]
        return iter(sorted(records, key=lambda record: record.created_at))

    def use(self, token_id: str) -> Use | None:
        """Count one use of a token; None if there is no such token. Raises RecordUnreadable."""
        found = self._store.run("use_token", id=token_id)
        if not found:
            return None
        text, uses, now_ms = found
        record = read_record(TokenRecord, str(text), what=f"token {token_id}")
        return Use(record, int(uses), datetime.fromtimestamp(int(now_ms) / 1000, UTC))
