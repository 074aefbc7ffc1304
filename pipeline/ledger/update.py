"""How a record changes: read it, change it, write it if nobody else has written it meanwhile; else begin again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.errors import StaleWrite
from pipeline.process.backoff import backoff_s

# In each round one of those who write at the same time succeeds, so this is how many of them there may be.
MOST_TRIES = 50
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5

R = TypeVar("R")
W = TypeVar("W")


@dataclass(frozen=True)
class Updated(Generic[R]):
    """A record as it stands now, and whether this caller wrote it."""

    record: R
    written: bool


def update(
    read: Callable[[], R],
    change: Callable[[R], W | None],
    write: Callable[[W], object],
    *,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> Updated[R | W]:
    """Change a record that others may change at the same time.

    Args:
        read: the record as it is now.
        change: the record as it shall be, one revision on; None to leave it as it is. It may be called several times,
            with what others have made of the record.
        write: raises StaleWrite if the record is no longer the one that was read.
        sleep, jitter: of the pause between two tries.

    Raises what these raise; StaleWrite only if others were faster MOST_TRIES times in a row.
    """
    failures = 0
    while True:
        record = read()
        after = change(record)
        if after is None:
            return Updated(record, written=False)
        try:
            write(after)
        except StaleWrite:
            failures += 1
            if failures == MOST_TRIES:
                raise
            sleep(backoff_s(failures, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S, random=jitter))
        else:
            return Updated(after, written=True)
