"""Tokens of the HTTP API, and how often each was used this minute."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from pipeline.errors import RecordUnreadable
from pipeline.ledger.store import Store
from pipeline.records.tokens import SignIn, TokenRecord
from pipeline.schema import read_record


@dataclass(frozen=True)
class Use:
    """A token that was used: its record, how many uses there were in this minute, and the ledger's time."""

    record: TokenRecord
    this_minute: int
    at: datetime


@lru_cache(maxsize=1024)
def _parsed(token_id: str, text: str) -> TokenRecord:
    """The same token comes with every request."""
    return read_record(TokenRecord, text, what=f"token {token_id}")


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

    def each(self) -> list[tuple[str, TokenRecord | RecordUnreadable]]:
        """All of them by their ids, in the order of their making, and why any others cannot be read."""
        with self._store.errors():
            found = self._store.redis.hgetall(self._store.keys.tokens)
        records, unreadable = list[TokenRecord](), list[tuple[str, RecordUnreadable]]()
        for name, text in sorted(found.items()):
            try:
                records.append(read_record(TokenRecord, text, what=f"token {name}"))
            except RecordUnreadable as error:
                unreadable.append((name, error))
        records.sort(key=lambda record: record.created_at)
        return [*((record.id, record) for record in records), *unreadable]

    def put_sign_in(self, sign_in_id: str, sign_in: SignIn, life: timedelta) -> None:
        """Keep a link that begins a session, for so long."""
        with self._store.errors():
            self._store.redis.set(self._store.keys.sign_in(sign_in_id), sign_in.model_dump_json(), ex=life)

    def take_sign_in(self, sign_in_id: str) -> SignIn | None:
        """The link of this id, which works no more from now on; None if there is none, or none any more."""
        with self._store.errors():
            text = self._store.redis.getdel(self._store.keys.sign_in(sign_in_id))
        return read_record(SignIn, text, what=f"sign-in {sign_in_id}") if text else None

    def use(self, token_id: str) -> Use | None:
        """Count one use of a token; None if there is no such token. Raises RecordUnreadable."""
        found = self._store.run("use_token", id=token_id)
        if not found:
            return None
        text, uses, now_ms = found
        return Use(_parsed(token_id, str(text)), int(uses), datetime.fromtimestamp(int(now_ms) / 1000, UTC))
