"""Live events of a batch."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from pipeline.ledger.keys import EVENTS_KEPT
from pipeline.service.feed import Feeds
from tests.pipeline.service.served import Served

Message = tuple[str, str | None, Any]  # its kind, its id, its data


@contextmanager
def _following(served: Served, batch_id: str, **headers: str) -> Iterator[Iterator[Message]]:
    request = urllib.request.Request(  # noqa: S310  # our own server
        f"{served.url}/api/batches/{batch_id}/events", headers={"Authorization": f"Bearer {served.token}", **headers}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield _messages(answer)


def _messages(answer: Any) -> Iterator[Message]:
    fields: dict[str, str] = {}
    for line in answer:
        if text := line.decode().rstrip("\n"):
            name, _, value = text.partition(": ")
            fields[name] = value
        elif fields:
            yield fields.get("event", ""), fields.get("id"), json.loads(fields.get("data", "null"))
            fields = {}


def test_followers_see_images_arrive_and_go_on_where_they_were(served: Served) -> None:
    rows = [{"prompt": f"p{number}", "width": 64, "height": 128} for number in range(3)]
    with served.held():
        served.ask("POST", "/api/batches", {"prompts": rows, "batch_id": "live"})
        with _following(served, "live") as messages:
            kind, _, status = next(messages)
            assert (kind, status["state"], status["total"]) == ("status", "validating", 3)
            served._works.set()  # while somebody follows
            seen = list(messages)
    images = [(event_id, data) for kind, event_id, data in seen if kind == "image" and data["state"] == "succeeded"]
    assert [data["name"] for _, data in images] == ["0", "1", "2"]
    assert [kind for kind, _, _ in seen][-1] == "end"
    assert [data for kind, _, data in seen if kind == "status"][-1]["succeeded"] == 3
    with _following(served, "live", **{"Last-Event-ID": str(images[1][0])}) as messages:
        rest = [data["name"] for kind, _, data in messages if kind == "image"]
    assert rest == ["2"]


def test_many_follow_one_batch(served: Served) -> None:
    with served.held():
        served.ask("POST", "/api/batches", {"prompts": ["p"], "options": {"size": "64x128"}, "batch_id": "many"})
        following = [_following(served, "many") for _ in range(50)]
        opened = [one.__enter__() for one in following]
        try:
            assert {next(messages)[0] for messages in opened} == {"status"}
            assert served.ask("GET", "/api/batches/many").status == 200
        finally:
            for one in following:
                one.__exit__(None, None, None)


@pytest.mark.parametrize(("count", "gaps"), [(900, 0), (4000, 1)])
def test_a_follower_hears_that_events_were_lost_between_two_looks(served: Served, count: int, gaps: int) -> None:
    batch_id = f"burst-{count}"
    with served.held():
        served.ask("POST", "/api/batches", {"prompts": ["p"], "options": {"size": "64x128"}, "batch_id": batch_id})
        with _following(served, batch_id) as messages:
            assert next(messages)[0] == "status"
            _happen(served, batch_id, range(count))
            kinds = [kind for kind, _, _ in _until(messages, str(count - 1))]
    assert kinds[0] == ("gap" if gaps else "image")  # before what comes behind it
    assert (kinds.count("gap"), kinds.count("image")) == (gaps, min(count, EVENTS_KEPT))


@pytest.mark.parametrize("last", ["9" * 5000 + "-0", "1-" + "9" * 5000, "nothing"])
def test_a_last_event_id_that_is_none_begins_at_the_beginning(served: Served, last: str) -> None:
    batch_id = f"no-id-{len(last)}-{last[0]}"
    with served.held():
        served.ask("POST", "/api/batches", {"prompts": ["p"], "options": {"size": "64x128"}, "batch_id": batch_id})
        with _following(served, batch_id, **{"Last-Event-ID": last}) as messages:
            assert next(messages)[0] == "batch"


def test_a_follower_hears_what_is_not_kept_any_more_since_it_last_asked(served: Served) -> None:
    async def follow() -> bytes:
        feeds = Feeds(served.stage.ledger)
        slow, quick = feeds.follow("slow", None), feeds.follow("slow", None)
        for follower in (slow, quick):
            assert b"event: status" in await anext(follower)
        for first in (0, 700):  # neither is too many for one look
            _happen(served, "slow", range(first, first + 700))
            news = await anext(quick)
            assert (news.count(b"event: image"), news.count(b"event: gap")) == (700, 0)
        return await anext(slow)

    with served.held():
        served.ask("POST", "/api/batches", {"prompts": ["p"], "options": {"size": "64x128"}, "batch_id": "slow"})
        news = anyio.run(follow)
    assert news.startswith(b"event: gap")
    assert news.count(b"event: image") == EVENTS_KEPT


def _happen(served: Served, batch_id: str, images: range) -> None:
    """Images move, all before anybody looks again."""
    store = served.stage.ledger.batches._store
    pipe = store.redis.pipeline(transaction=True)
    for image in images:
        fields = {"what": "image", "id": str(image), "state": "cancelled"}
        pipe.xadd(store.keys.events(batch_id), fields, maxlen=EVENTS_KEPT, approximate=True)
    pipe.execute()


def _until(messages: Iterator[Message], name: str) -> Iterator[Message]:
    for message in messages:
        yield message
        if message[0] == "image" and message[2]["name"] == name:
            return
