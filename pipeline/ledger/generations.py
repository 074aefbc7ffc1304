"""Whether the ledger is the one that it was: its generation, and on which server it was last found to be in order."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from pipeline.errors import RecordUnreadable
from pipeline.ledger.store import Store
from pipeline.records.generation import Generation
from pipeline.stored import checked_moment

# Of a Redis that does not say which one it is: then only the sequence shows that it was rolled back.
UNNAMED = "unnamed"
SERVER_S = 5.0


@dataclass(frozen=True)
class Standing:
    """The generation of a ledger, and whether it may be believed.

    Attributes:
        generation: counted on by the controller.
        server: on which it was last found to agree with the bucket.
        doubt: why it has to be compared with the bucket; empty if there is no reason to.
        good_at: when it last agreed, by Redis' clock; None if it never did.
        since: when the doubt arose.
    """

    generation: Generation
    server: str
    doubt: str = ""
    good_at: datetime | None = None
    since: datetime | None = None


@dataclass(frozen=True)
class _Known:
    """The server that answered when there had been so many connections, at a monotonic time."""

    server: str
    connected: int
    at: float


class Generations:
    """Read and write the generation; a write fails if it has moved on since it was read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: _Known | None = None

    def read(self) -> Standing | None:
        """The generation of this ledger; None if it has none: it is new, or was emptied, or something else lies there.

        That is removed by the controller's next tick.
        """
        try:
            with self._store.errors():
                found = self._store.redis.hgetall(self._store.keys.generation)
            generation = Generation(token=found["token"], sequence=int(found["sequence"]))
            server, why = found["server"], found["doubt"]
        except (RecordUnreadable, KeyError, ValueError):
            return None
        return Standing(generation, server, why, _moment(found.get("good_ms")), _moment(found.get("since_ms")))

    def server(self) -> str:
        """Which Redis answers, and which history of writes it is on: both change when it restarts or fails over."""
        try:
            with self._store.errors():
                run = self._store.redis.info("server").get("run_id")
                history = self._store.redis.info("replication").get("master_replid")
        except redis.ResponseError:
            return UNNAMED  # a managed service that hides INFO
        return f"{run}/{history}" if run else UNNAMED

    def known_server(self) -> str:
        """As `server`, asked for again only over new connections and every SERVER_S.

        A Redis that was restarted has closed all connections; one that was switched behind a proxy may not have.
        """
        connected, now = self._store.connected, time.monotonic()
        known = self._known
        if known is None or known.connected != connected or now - known.at > SERVER_S:
            self._known = known = _Known(self.server(), connected, now)
        return known.server

    def is_in_doubt(self, *, new: bool = True) -> bool:
        """Whether nothing that cannot be undone should be done by this ledger now.

        True also right after Redis restarted, before the controller's tick has noticed. `new` is the answer for a
        ledger without a generation: it is empty, or its controller is of a version that does not count.
        """
        standing = self.read()
        if standing is None:
            return new
        # It was read just now: over a new connection if Redis was restarted.
        return bool(standing.doubt) or standing.server != self.known_server()

    def write(self, before: Standing | None, after: Standing) -> bool:
        """Put a generation into the place of the one that was read; False if that one has moved on."""
        done = self._store.run(
            "write_generation",
            expected_token="" if before is None else before.generation.token,
            expected_sequence="" if before is None else before.generation.sequence,
            token=after.generation.token,
            sequence=after.generation.sequence,
            server=after.server,
            doubt=after.doubt,
        )
        if done:
            return True
        now = self.read()  # the answer to our own write may have been lost, and the step asked for again
        return now is not None and (now.generation, now.doubt) == (after.generation, after.doubt)


def _moment(milliseconds: str | None) -> datetime | None:
    try:
        return None if milliseconds is None else checked_moment(datetime.fromtimestamp(int(milliseconds) / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return None
