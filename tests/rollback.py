"""A Redis that comes back with what it held before: every key of one deployment, kept and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from pipeline.deployment.settings import Settings


@dataclass(frozen=True)
class Snapshot:
    """The keys of a deployment at one moment, as `DUMP` gives them, with the milliseconds that each has left."""

    settings: Settings
    keys: dict[bytes, tuple[int, bytes]]

    @classmethod
    def of(cls, settings: Settings) -> Snapshot:
        found = {}
        with _connected(settings) as server:
            for key in server.scan_iter(match=f"{settings.redis_prefix}:*", count=1000):
                left_ms, dump = server.pttl(key), server.dump(key)
                if dump is not None:  # it has not expired in between
                    found[key] = (max(0, left_ms), dump)
        return cls(settings, found)

    def restore(self) -> None:
        """Put the deployment back to that moment, in one step that nobody sees the middle of."""
        with _connected(self.settings) as server, server.pipeline(transaction=True) as pipe:
            for key in server.scan_iter(match=f"{self.settings.redis_prefix}:*", count=1000):
                pipe.delete(key)
            for key, (left_ms, dump) in self.keys.items():
                pipe.restore(key, left_ms, dump, replace=True)
            pipe.execute()


@contextmanager
def _connected(settings: Settings) -> Iterator[Any]:
    server = redis.Redis.from_url(settings.redis_url.get_secret_value())
    try:
        yield server
    finally:
        server.close()
