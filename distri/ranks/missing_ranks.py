"""Which rank is missing, when a message fails.

A rank that waits for a silent one sees only that its neighbour does not answer, and the neighbour may itself be waiting
for another. So every rank whose message fails answers a roll call in the store through which the ranks met, and waits a
little for the others: who has not answered then is dead, stopped, or stuck outside any message.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from distri.ranks.errors import PeerLost

POLL_S = 0.1


class RollCall:
    """One rank's side of the roll call.

    Args:
        store: shared by all ranks, and outliving each of them (torchrun's agent keeps it).
        rank: this one.
        grace: how long the others get to answer; no longer than they need to come to their next message.
    """

    def __init__(self, store: Any, rank: int, *, grace: timedelta) -> None:
        self._store = store
        self._rank = rank
        self._grace_s = grace.total_seconds()

    def missing(self, ranks: Sequence[int]) -> tuple[int, ...] | None:
        """Ranks that do not answer within the grace; None if the store does not answer either. Blocks that long."""
        silent: set[int] | None = None

        def call() -> None:
            nonlocal silent
            # A client of its own, which no thread that waits in the store can block.
            store = dist.PrefixStore("tessera.rollcall", self._store.clone())  # type: ignore[attr-defined]
            store.set(str(self._rank), "here")
            silent = set(ranks) - {self._rank}
            while silent and not over.wait(POLL_S):
                silent = {rank for rank in silent if not store.check([str(rank)])}

        over = threading.Event()
        caller = threading.Thread(target=call, daemon=True)  # the store's host may be the very rank that is stopped
        caller.start()
        caller.join(self._grace_s)
        over.set()
        return None if silent is None else tuple(sorted(silent))


@contextmanager
def name_missing(roll_call: RollCall | None, ranks: Sequence[int]) -> Iterator[None]:
    """Turn a message that failed within the block into a PeerLost that names the missing ranks.

    Args:
        roll_call: None where there are no peers.
        ranks: who takes part in the message.
    """
    try:
        yield
    except RuntimeError as error:  # the root of what torch.distributed raises, and gloo raises it bare
        if roll_call is None:
            raise
        reason = str(error).strip().split("\n")[0]
        raise PeerLost(missing=roll_call.missing(ranks), ranks=tuple(ranks), reason=reason) from error
