"""Put Redis back to the file that it had a while ago, as a restored backup or a replica that lagged does."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedded.services.services import Services
from tests.faults.deployment import until

_LIVE = "appendonlydir"


@dataclass(frozen=True)
class Copy:
    """The append-only file of one moment, by the monotonic clock."""

    folder: Path
    at: float


class RedisFiles:
    """Copies of the append-only file, and the way back to one. Redis writes each command there before it answers."""

    def __init__(self, services: Services, folder: Path) -> None:
        self._redis, self._folder, self._copies = services.redis, folder, 0
        self._live = Path(services.redis.program.folder) / _LIVE
        folder.mkdir(parents=True, exist_ok=True)

    def copy(self) -> Copy:
        """Keep what Redis has written until now."""
        self._copies += 1
        to = self._folder / f"copy-{self._copies}"
        shutil.copytree(self._live, to)
        return Copy(to, time.monotonic())

    def drop(self, copy: Copy) -> None:
        shutil.rmtree(copy.folder)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Redis is killed, and started again afterwards."""
        self._redis.send(signal.SIGKILL)
        until("Redis is gone", lambda: self._redis.exit_code() is not None)
        try:
            yield
        finally:
            self._redis.start()

    def roll_back(self, copy: Copy) -> float:
        """Start Redis again with that copy; returns how many seconds it has forgotten."""
        with self.away():
            shutil.rmtree(self._live)
            shutil.copytree(copy.folder, self._live)
        return time.monotonic() - copy.at
