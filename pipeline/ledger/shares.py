"""Links to single batches that were shared: each a record that expires by itself."""

from __future__ import annotations

from pipeline.ledger.store import Store
from pipeline.schema import Versioned, read_record
from pipeline.stored import Moment

SCHEMA_VERSION = 1


class Share(Versioned):
    """What a link shows, and the SHA-256 of its secret."""

    schema_version: int = SCHEMA_VERSION
    batch_id: str
    staged: str
    digest: str
    expires_at: Moment


class Shares:
    """Add, get and remove them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, share_id: str, share: Share) -> None:
        """Keep it until it expires."""
        keys, ends_s = self._store.keys, int(share.expires_at.timestamp())
        with self._store.errors():
            pipe = self._store.redis.pipeline()
            pipe.set(keys.share(share_id), share.model_dump_json(), exat=ends_s)
            pipe.sadd(keys.shares(share.batch_id), share_id)
            pipe.execute()

    def get(self, share_id: str) -> Share | None:
        """None if there is none, or none any more."""
        with self._store.errors():
            text = self._store.redis.get(self._store.keys.share(share_id))
        return read_record(Share, text, what=f"share {share_id}") if text else None

    def remove_of(self, batch_id: str) -> None:
        """All of a batch."""
        keys = self._store.keys
        with self._store.errors():
            found = self._store.redis.smembers(keys.shares(batch_id))
            self._store.redis.delete(keys.shares(batch_id), *(keys.share(one) for one in found))
