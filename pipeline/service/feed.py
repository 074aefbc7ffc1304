"""What happens to batches, as it happens: one look at a batch serves all who follow it in this process.

Followers are resumed by the id of the last event they had, which is that of the ledger's stream, so that any process
can go on where another ended.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import anyio
from anyio import to_thread

from pipeline.errors import RecordUnreadable, ServiceError, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.ledger.batches import Event
from pipeline.ledger.keys import EVENTS_KEPT
from pipeline.operations.status import BatchStatus, batch_status
from pipeline.service.refusals import TooManyRequests, error_body

LOOK_S = 0.5
MOST_FOLLOWERS = 1000
_BEGINNING = "0-0"
_ALIVE_S = 15.0
_FLEETING = ("seen_at", "elapsed_s")
_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")  # two numbers of 64 bits


class _Feed:
    """The last events of one batch, and its status, as of the last look.

    `lost_until` is a place in its stream: some events up to it may be lost or not kept any more, none behind it.
    """

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        self.followers = 0
        self.events: deque[Event] = deque()
        self.lost_until = (0, 0)
        self.status: dict[str, Any] = {}
        self.finished = False
        self.trouble: ServiceError | UnknownBatch | None = None
        self._looked_at = 0.0
        self._lock = anyio.Lock()

    async def refresh(self, ledger: Ledger) -> None:
        """Look, unless somebody has just looked."""
        async with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_S:
                # Kept here and not in the thread: followers read meanwhile.
                self._keep(await to_thread.run_sync(self._look, ledger))
                self._looked_at = time.monotonic()

    def _look(self, ledger: Ledger) -> tuple[BatchStatus, list[Event]] | ServiceError | UnknownBatch:
        try:
            # The status first: what has happened by then is among the events that are read after it.
            status = batch_status(ledger, self.batch_id)
            after = self.events[-1].id if self.events else _BEGINNING
            return status, ledger.batches.events(self.batch_id, after=after, wait_s=0)
        except (ServiceError, UnknownBatch) as error:
            return error

    def _keep(self, seen: tuple[BatchStatus, list[Event]] | ServiceError | UnknownBatch) -> None:
        if isinstance(seen, ServiceError | UnknownBatch):
            self.trouble = seen
            return
        status, found = seen
        self.trouble, self.finished = None, status.finished
        self.status = {name: value for name, value in status.as_dict().items() if name not in _FLEETING}
        self._add(found)

    def _add(self, found: list[Event]) -> None:
        """Add what was found behind the newest event, and note which are lost."""
        if len(found) >= EVENTS_KEPT:  # Redis, which keeps at least so many, may have dropped others before them
            moment, number = _place(found[0].id)
            self.lost_until = (moment, number - 1)
        self.events.extend(found)
        while len(self.events) > EVENTS_KEPT:
            self.lost_until = max(self.lost_until, _place(self.events.popleft().id))


class Feeds:
    """The batches that somebody follows in this process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._feeds: dict[str, _Feed] = {}

    def check_room(self) -> None:
        """Raise TooManyRequests if as many follow as may."""
        if sum(feed.followers for feed in self._feeds.values()) >= MOST_FOLLOWERS:
            raise TooManyRequests(f"{MOST_FOLLOWERS:,} connections follow events here already; ask again later")

    async def follow(self, batch_id: str, after: str | None) -> AsyncIterator[bytes]:
        """Server-sent events of a batch, those behind the one with id `after`, until it is finished.

        `status` has its counts; `image`, `job` and `batch` say what moved to which state; `gap` that some events are
        not kept any more, so that all is to be read again; `outage` that Redis is away; `end` that no more will come.
        """
        feed = self._feeds.setdefault(batch_id, _Feed(batch_id))
        feed.followers += 1
        try:
            async for message in self._messages(feed, after):
                yield message
        finally:
            feed.followers -= 1
            if not feed.followers:
                self._feeds.pop(batch_id, None)

    async def _messages(self, feed: _Feed, after: str | None) -> AsyncIterator[bytes]:
        await feed.refresh(self._ledger)
        cursor = _place(after) if after is not None else _last(feed)
        status: dict[str, Any] = {}
        trouble, sent_at = None, time.monotonic()
        while True:
            news = list[bytes]()
            if feed.trouble is not None and type(feed.trouble) is not trouble:
                news.append(_message("outage", error_body(feed.trouble)["error"]))
            trouble = None if feed.trouble is None else type(feed.trouble)
            if cursor < feed.lost_until:
                news.append(_message("gap", {"batch": feed.batch_id}))
            for event in [event for event in feed.events if _place(event.id) > cursor]:
                cursor = _place(event.id)
                news.append(_message(event.what, {"name": event.name, "state": event.state}, event.id))
            if feed.status != status:
                status = feed.status
                news.append(_message("status", status))
            if isinstance(feed.trouble, UnknownBatch | RecordUnreadable) or feed.finished:
                yield b"".join([*news, _message("end", {"batch": feed.batch_id})])
                return
            if not news and time.monotonic() - sent_at > _ALIVE_S:
                news.append(b": there is nothing new\n\n")
            if news:
                sent_at = time.monotonic()
                yield b"".join(news)
            await anyio.sleep(LOOK_S)
            await feed.refresh(self._ledger)


def _last(feed: _Feed) -> tuple[int, int]:
    return _place(feed.events[-1].id) if feed.events else (0, 0)


def _place(event_id: str) -> tuple[int, int]:
    """The place of an event in its stream; the beginning, if this is no id."""
    found = _ID.fullmatch(event_id)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _message(event: str, data: dict[str, Any], event_id: str | None = None) -> bytes:
    lines = [f"id: {event_id}"] if event_id is not None else []
    return "\n".join([*lines, f"event: {event}", f"data: {json.dumps(data)}", "", ""]).encode()
