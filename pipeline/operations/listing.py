"""Batches, newest first: all, or those that a filter names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pipeline.errors import RecordUnreadable, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.operations.status import BatchStatus, Unreadable, batch_status
from pipeline.states import BatchState

_PAGE = 100


@dataclass(frozen=True)
class BatchFilter:
    """Which batches are listed: those that have all that is given here.

    Attributes:
        states: one of these; none is every state.
        tenant: whose they are.
        schedule: that submitted them.
        labels: that they were submitted with.
        since, until: between which they were submitted.
    """

    states: frozenset[BatchState] = frozenset()
    tenant: str | None = None
    schedule: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, seen: BatchStatus) -> bool:
        """Whether this batch is listed."""
        return (
            (not self.states or seen.state in self.states)
            and self.tenant in (None, seen.tenant)
            and self.schedule in (None, seen.schedule)
            and self.labels.items() <= seen.labels.items()
            and (self.since is None or seen.created_at >= self.since)
            and (self.until is None or seen.created_at < self.until)
        )


EVERY = BatchFilter()


def newest_batches(
    ledger: Ledger, limit: int, wanted: BatchFilter = EVERY, *, after: str | None = None
) -> list[BatchStatus | Unreadable]:
    """The newest batches that are wanted, those behind `after` if it is given; removed ones are left out.

    One whose record cannot be read is an entry that says why, unless only some are wanted: nobody knows if it is.
    Raises UnknownBatch if there is no `after`.
    """
    begin = 0 if after is None else ledger.batches.place(after) + 1
    page = min(limit, _PAGE) if wanted == EVERY else _PAGE
    return list(itertools.islice(_wanted(ledger, page, wanted, begin), limit))


def _wanted(ledger: Ledger, page: int, wanted: BatchFilter, begin: int) -> Iterator[BatchStatus | Unreadable]:
    for first in itertools.count(begin, page):
        ids = ledger.batches.newest(page, first=first)
        for batch_id in ids:
            try:
                seen = batch_status(ledger, batch_id)
            except UnknownBatch:
                continue
            except RecordUnreadable as error:
                if wanted == EVERY:
                    yield Unreadable.of(batch_id, error)
                continue
            if wanted.since is not None and seen.created_at < wanted.since:
                return  # all others are older
            if wanted.matches(seen):
                yield seen
        if len(ids) < page:
            return
