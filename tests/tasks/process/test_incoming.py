"""What comes out of a queue is a hint, made anew, or a dead letter."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest

from pipeline.deployment.broker import EXPAND, FIRE, RENDER, celery_app, send_hint
from pipeline.deployment.broker_keys import CONTROL_QUEUE, RENDER_QUEUE, queue_key
from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger
from pipeline.ledger.dead_letters import BEGINNING_CHARACTERS, KEPT, Malformed
from tasks.process.incoming import MOST_BYTES, Incoming
from tasks.process.metrics import Metrics


def body(args: Any, **more: Any) -> str:
    return base64.b64encode(json.dumps([args, more, None]).encode()).decode()


GOOD: dict[str, Any] = {
    "body": body(["b"]),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"task": EXPAND, "id": "1"},
    "properties": {"body_encoding": "base64", "delivery_tag": "t"},
}


def message(**parts: Any) -> bytes:
    """A good message but for these parts; None leaves one out, and `a__b` is b of a."""
    whole = copy.deepcopy(GOOD)
    for name, value in parts.items():
        *outer, last = name.replace("_type", "-type").replace("content_encoding", "content-encoding").split("__")
        into = whole
        for part in outer:
            into = into[part]
        if value is None:
            del into[last]
        else:
            into[last] = value
    return json.dumps(whole).encode()


POISON: dict[str, tuple[bytes, Malformed]] = {
    "nothing": (b"", Malformed.NO_ENVELOPE),
    "no text": (b"\xff\xfe\x00", Malformed.NO_ENVELOPE),
    "no JSON": (b"{", Malformed.NO_ENVELOPE),
    "a number": (b"7", Malformed.NO_ENVELOPE),
    "a list": (b"[]", Malformed.NO_ENVELOPE),
    "null": (b"null", Malformed.NO_ENVELOPE),
    "nested deeply": (b"[" * 60_000, Malformed.NO_ENVELOPE),
    "without headers": (message(headers=None), Malformed.NO_ENVELOPE),
    "headers that are text": (message(headers="x"), Malformed.NO_ENVELOPE),
    "without a task": (message(headers__task=None), Malformed.NO_ENVELOPE),
    "a task that is a list": (message(headers__task=[]), Malformed.NO_ENVELOPE),
    "without an id": (message(headers__id=None), Malformed.NO_ENVELOPE),
    "an expiry that is no time": (message(headers__expires="soon"), Malformed.NO_ENVELOPE),
    "without properties": (message(properties=None), Malformed.NO_ENVELOPE),
    "without a delivery tag": (message(properties__delivery_tag=None), Malformed.NO_ENVELOPE),
    "another encoding of the body": (message(properties__body_encoding="rot13"), Malformed.NO_ENVELOPE),
    "another content type": (message(content_type="application/x-python-serialize"), Malformed.NO_ENVELOPE),
    "another content encoding": (message(content_encoding="utf-99"), Malformed.NO_ENVELOPE),
    "no base64": (message(body="***"), Malformed.BODY),
    "base64 of no JSON": (message(body=base64.b64encode(b"{").decode()), Malformed.BODY),
    "a body that is no task": (message(body=base64.b64encode(b'"hello"').decode()), Malformed.BODY),
    "arguments that are a mapping": (message(body=body({"a": 1})), Malformed.BODY),
    "too few arguments": (message(body=body([])), Malformed.ARGUMENTS),
    "an argument that is no text": (message(body=body([7])), Malformed.ARGUMENTS),
    "a batch id that is a path": (message(body=body(["../../x"])), Malformed.ARGUMENTS),
    "another program's task": (message(headers__task="celery.backend_cleanup"), Malformed.UNKNOWN_TASK),
    "a newer version's task": (message(headers__task="tessera.dance"), Malformed.UNKNOWN_TASK),
    "a huge body": (message(body="A" * 10 * MOST_BYTES), Malformed.TOO_LARGE),
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def incoming(settings: Settings, metrics: Metrics) -> Incoming:
    return Incoming(Ledger(settings).dead_letters, metrics)


@pytest.mark.parametrize("what", POISON)
def test_what_is_no_hint_is_counted_and_kept(
    settings: Settings, metrics: Metrics, incoming: Incoming, what: str
) -> None:
    raw, reason = POISON[what]
    assert incoming.hint(raw, "control") is None
    (letter,) = Ledger(settings).dead_letters.newest()
    assert (letter.queue, letter.reason, letter.size_bytes) == ("control", reason, len(raw))
    assert len(letter.beginning) <= BEGINNING_CHARACTERS
    assert metrics.registry.get_sample_value("tessera_dead_letters_total", {"reason": reason.value}) == 1


@pytest.mark.parametrize(
    ("task", "args", "queue"),
    [(EXPAND, ["b"], CONTROL_QUEUE), (FIRE, ["nightly"], CONTROL_QUEUE), (RENDER, [], RENDER_QUEUE)],
)
def test_a_hint_as_celery_sends_it_goes_on(
    settings: Settings, incoming: Incoming, task: str, args: list[str], queue: str
) -> None:
    ledger = Ledger(settings)
    assert send_hint(celery_app(settings), task, *args)
    raw = ledger.store.redis.rpop(queue_key(settings.redis_prefix, queue))
    renewed = incoming.hint(raw.encode(), queue)
    assert renewed is not None
    sent = json.loads(renewed)
    assert sent["headers"]["task"] == task
    assert sent["headers"]["expires"] == json.loads(raw)["headers"]["expires"]
    assert json.loads(base64.b64decode(sent["body"]))[0] == args
    assert not ledger.dead_letters.newest()


def test_nothing_that_celery_would_obey_goes_on(incoming: Incoming) -> None:
    """Callbacks, a time in the far future and a limit are headers and parts of a body that Celery believes."""
    orders = {"callbacks": [{"task": "x"}], "chain": [{"task": "x"}], "errbacks": None, "chord": None}
    obeyed = base64.b64encode(json.dumps([["b", "more", {"of": "it"}], {"a": 1}, orders]).encode()).decode()
    headers = {"eta": "9999-01-01T00:00:00", "timelimit": [1, 1], "compression": "zlib", "stamps": {}}
    renewed = incoming.hint(message(body=obeyed, headers={**GOOD["headers"], **headers}), "control")
    assert renewed is not None
    sent = json.loads(renewed)
    assert not sent["headers"].keys() & {"eta", "timelimit", "compression", "stamps"}
    args, kwargs, embed = json.loads(base64.b64decode(sent["body"]))
    assert (args, kwargs, set(embed.values())) == (["b"], {}, {None})


def test_our_own_mistakes_cost_the_message_and_not_the_worker(
    settings: Settings, incoming: Incoming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.process.incoming.read_record", lambda: None)  # takes no arguments
    assert incoming.hint(message(), "control") is None
    assert "our own program failed" in Ledger(settings).dead_letters.newest()[0].found


def test_a_flood_leaves_the_last_ones_for_a_week(settings: Settings) -> None:
    ledger = Ledger(settings)
    for number in range(KEPT + 5):
        ledger.dead_letters.add("control", Malformed.BODY, f"number {number}", b"x" * 5_000)
    found = ledger.dead_letters.newest()
    assert [found[0].found, found[-1].found, len(found)] == [f"number {KEPT + 4}", "number 5", KEPT]
    assert ledger.store.redis.ttl(ledger.store.keys.dead_letters) > 6 * 24 * 3600
