"""Live events of a batch."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
