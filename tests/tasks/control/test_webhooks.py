"""What becomes of a batch reaches its webhooks, signed, at least once, whoever is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import redis.connection
import standardwebhooks

from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import RequestError
from pipeline.ledger.webhooks import WebhookRecords
from pipeline.names import job_ref
from pipeline.operations.cancel import request_cancel
from pipeline.operations.purge import request_purge
from pipeline.operations.retry import request_retry
from pipeline.operations.webhooks import (
    DeliveryFilter,
    add_endpoint,
    deliveries,
    delivery_as_dict,
    resend,
    signing_secrets,
)
from pipeline.process import outgoing
from pipeline.records.batch import Purge
from pipeline.records.webhooks import Delivery, DeliveryState, Webhook
from pipeline.states import ImageState
from tasks.control import send_webhooks, webhook_events
from tasks.control.cancel import cancel
from tasks.control.purge import purge
from tasks.control.reopen import reopen
from tasks.control.send_webhooks import send, send_for
from tasks.control.webhook_events import hand_over_events
from tasks.worker import build_context
from tests.tasks.stage import Stage

FORK = multiprocessing.get_context("fork")
KEY = "0123456789abcdef01234567"


class Receiver:
    """Somebody's server: what it was sent, and what it answers."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []  # then 204
        self.answering = threading.Event()
        self.answering.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert receiver.answering.wait(60)
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("location", "http://127.0.0.1:1/")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?of=us"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def events(self) -> list[str]:
        return [json.loads(body)["type"].removeprefix("batch.") for _, body in self.got]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture
def sending(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A deployment that sends webhooks to this machine, and tries again at once."""
    monkeypatch.setattr(send_webhooks, "FIRST_DELAY_S", 0.0)
    monkeypatch.setattr(send_webhooks, "PAUSE_S", 0.02)
    changes: dict[str, Any] = {"webhook_key": KEY, "webhook_networks": ["127.0.0.0/8"], "models": stage.settings.models}
    return Stage(load_settings(stage.settings.environment() | {"TESSERA_LOG_LEVEL": "error"}, **changes))


def deliver(stage: Stage, *, until: int) -> list[Delivery]:
    """Send what is due, until so many deliveries have their end."""
    thread = threading.Thread(target=send_for, args=(stage.worker, 60.0))
    stage.worker.stopping.clear()
    thread.start()

    def ended() -> list[Delivery]:
        return [one for one in deliveries(stage.ledger) if one.state is not DeliveryState.WAITING]

    try:
        stage.soon(lambda: len(ended()) >= until, f"the end of {until} deliveries")
    finally:
        stage.worker.stopping.set()
        thread.join()
    return ended()


def test_a_foreign_receiver_verifies_what_it_is_sent(sending: Stage, receiver: Receiver) -> None:
    sending.batch(2, tenant="atlas", webhooks=[receiver.url], labels={"project": "x"})
    sending.work()
    sending.finalized()
    deliver(sending, until=2)
    assert receiver.events() == ["accepted", "completed"]
    headers, body = receiver.got[-1]
    secret, *others = signing_secrets(sending.settings, "atlas")
    assert others == []
    said = standardwebhooks.Webhook(secret).verify(body.decode(), headers)
    assert said["data"]["images"]["succeeded"] == said["data"]["total"] == 2
    assert (said["data"]["batch"], said["data"]["labels"]) == ("b", {"project": "x"})
    assert b"p0" not in body  # no prompt
    for wrong in (signing_secrets(sending.settings, "default")[0], "whsec_" + "A" * 43 + "="):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(wrong).verify(body.decode(), headers)


def test_while_a_key_is_changed_either_secret_verifies(sending: Stage, receiver: Receiver) -> None:
    sending.accepted(1, webhooks=[receiver.url])
    hand_over_events(sending.worker)
    (delivery,) = deliveries(sending.ledger)
    send(sending.worker, delivery, f"a-new-key-of-24-characters {KEY}")
    headers, body = receiver.got[-1]
    for key in (KEY, "a-new-key-of-24-characters"):
        settings = load_settings(sending.settings.environment(), webhook_key=key)
        standardwebhooks.Webhook(signing_secrets(settings, "default")[0]).verify(body.decode(), headers)


def test_what_is_refused_is_sent_again_with_its_id_and_given_up_after_two_hours(
    sending: Stage, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, 200]
    sending.accepted(1, webhooks=[receiver.url])
    (done,) = deliver(sending, until=1)
    assert (done.attempts, done.state, done.status) == (3, DeliveryState.DELIVERED, 200)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1
    late = done.model_copy(update={"until": sending.ledger.now(), "state": DeliveryState.WAITING})
    assert sending.ledger.webhooks.write(done, late)
    receiver.answers = [503]
    after = send(sending.worker, late, KEY)
    assert (after.state, after.reason) == (DeliveryState.FAILED, "HTTP status 503 found, 2xx wanted")
    assert after.until - after.created_at <= timedelta(hours=2)
    resend(sending.ledger, after.id)
    assert deliver(sending, until=1)[0].state is DeliveryState.DELIVERED


def test_a_webhook_of_one_batch_is_sent_nothing_of_others_and_goes_with_it(sending: Stage) -> None:
    for name in ("b", "c"):
        sending.batch(1, name)
    endpoint = add_endpoint(sending.ledger, "https://x.example/", batch_id="c")
    assert endpoint.schema_version == 3  # which the version before leaves alone
    assert add_endpoint(sending.ledger, "https://y.example/", events=["failed"]).schema_version == 1
    hand_over_events(sending.worker)
    assert {one.batch_id for one in deliveries(sending.ledger)} == {"c"}
    request_cancel(sending.ledger, "c")
    cancel(sending.worker, "c")
    sending.finalized("c")
    request_purge(sending.ledger, sending.artifacts, "c", Purge.EVERYTHING)
    purge(sending.worker, "c")
    assert [one.batch_id for one in sending.ledger.webhooks.endpoints()] == [None]


def test_an_end_after_a_retry_is_sent_too_and_cancellation(sending: Stage, receiver: Receiver) -> None:
    endpoint = add_endpoint(sending.ledger, receiver.url, tenant="default", events=["completed", "cancelled"])
    sending.batch(1)
    request_cancel(sending.ledger, "b")
    cancel(sending.worker, "b")
    sending.finalized()
    hand_over_events(sending.worker)
    request_retry(sending.ledger, sending.artifacts, "b")
    reopen(sending.worker, "b")
    sending.work()
    sending.finalized()
    hand_over_events(sending.worker)
    hand_over_events(sending.worker)  # nothing new
    deliver(sending, until=2)
    assert receiver.events() == ["cancelled", "completed"]
    sending.ledger.webhooks.remove_endpoint(endpoint.id)
    sending.batch(1, "c", tenant="other")
    hand_over_events(sending.worker)
    assert len(deliveries(sending.ledger)) == 2
    assert sending.ledger.webhooks.watched() == []


def test_a_purge_does_not_swallow_the_last_event(sending: Stage, receiver: Receiver) -> None:
    sending.batch(1, webhooks=[Webhook(url=receiver.url, events=("completed",))])
    sending.work()
    sending.finalized()
    request_purge(sending.ledger, sending.artifacts, "b", Purge.EVERYTHING)
    purge(sending.worker, "b")
    assert not sending.ledger.batches.known("b")
    assert [one.event for one in deliveries(sending.ledger)] == ["completed"]
    hand_over_events(sending.worker)
    assert sending.ledger.webhooks.watched() == []


def test_progress_is_throttled_and_overtaken_by_later_progress(
    sending: Stage, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending.batch(4, webhooks=[receiver.url])
    hand_over_events(sending.worker)
    incarnation = sending.ledger.batches.get("b").manifest.incarnation

    def one_more(index: int) -> None:
        ref = job_ref("b", index // sending.settings.images_per_job)
        sending.ledger.images.move_by_worker("b", ref, [index], ImageState.FAILED, incarnation=incarnation, fence="")
        sending.ledger.webhooks.watch_open()
        hand_over_events(sending.worker)

    one_more(0)
    assert [one.event for one in deliveries(sending.ledger)] == ["accepted"]  # too soon
    monkeypatch.setattr(webhook_events, "PROGRESS_S", 0.0)
    one_more(1)
    one_more(2)
    found = deliver(sending, until=3)
    states = {(one.event, one.state): json.loads(one.body)["data"]["done"] for one in found}
    assert states == {
        ("accepted", DeliveryState.DELIVERED): 0,
        ("progress", DeliveryState.SUPERSEDED): 2,
        ("progress", DeliveryState.DELIVERED): 3,
    }


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://169.254.169.254/latest", "not public"),
        ("https://[::ffff:10.0.0.1]/", "not public"),
        ("https://user:pw@example.com/", "user, password"),
        ("ftp://example.com/", "https://HOST/PATH wanted"),
        ("https://exa mple.com/", "some that no URL has"),
        ("https://example.com:99999/", "cannot be used"),
    ],
)
def test_urls_that_cannot_be_are_refused_before_anything_is_accepted(sending: Stage, url: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as refused:
        sending.accepted(1, webhooks=[url])
    assert "pw" not in str(refused.value)
    assert not sending.ledger.batches.known("b")


def test_a_deployment_without_a_key_says_that_it_sends_none(stage: Stage) -> None:
    with pytest.raises(RequestError, match="TESSERA_WEBHOOK_KEY"):
        stage.accepted(1, webhooks=["https://example.com/"])


def test_no_list_shows_what_may_be_a_password(sending: Stage, receiver: Receiver) -> None:
    sending.accepted(1, webhooks=[receiver.url])
    hand_over_events(sending.worker)
    (found,) = deliveries(sending.ledger, DeliveryFilter(batch_id="b"))
    assert "hook" not in json.dumps(delivery_as_dict(found))
    assert KEY not in repr(sending.settings)
    kept = sending.ledger.store.redis.keys(f"{sending.settings.redis_prefix}*")
    everything = [sending.ledger.store.redis.dump(key) for key in kept]
    assert signing_secrets(sending.settings, "default")[0] not in str(everything)


def _send_and_die(settings: Settings, last: int) -> None:
    """Send in this process, which is killed when it is about to make request number `last` of Redis or the receiver."""
    made = 0

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            if made > last:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    context = build_context(settings, "control")
    connection = redis.connection.AbstractConnection
    connection.send_packed_command = counted(connection.send_packed_command)  # type: ignore[method-assign]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(send_webhooks, "post", counted(outgoing.post))
    hand_over_events(context)
    for delivery in context.ledger.webhooks.due():
        send(context, delivery, KEY)


def test_a_controller_that_is_killed_at_any_instant_loses_none(sending: Stage, receiver: Receiver) -> None:
    sending.batch(1, webhooks=[receiver.url])
    sending.work()
    sending.finalized()
    last = 0
    code: int | None = -1
    while code != 0:
        child = FORK.Process(target=_send_and_die, args=(sending.settings, last))
        child.start()
        child.join()
        last, code = last + 1, child.exitcode
        assert code in (0, -signal.SIGKILL)
        assert last < 60
    assert last > 8
    assert {one.state for one in deliveries(sending.ledger)} == {DeliveryState.DELIVERED}
    assert set(receiver.events()) == {"accepted", "completed"}
    ids = {headers["webhook-id"] for headers, _ in receiver.got}
    assert len(ids) == 2  # what was sent twice has the id that it had


def test_what_is_delivered_during_a_look_for_due_ones_is_not_sent_again(
    sending: Stage, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending.accepted(1, webhooks=[receiver.url])
    webhooks, end = type(sending.ledger.webhooks), send_webhooks._Sending.end
    due, looks, ended = webhooks.due, list[int](), threading.Event()

    def look(self: WebhookRecords) -> list[Delivery]:
        found = due(self)
        if found:
            looks.append(len(found))
        if len(looks) == 2 and not ended.is_set():
            receiver.answering.set()
            assert ended.wait(60)
        return found

    def end_and_say(self: send_webhooks._Sending, url: str) -> None:
        end(self, url)
        ended.set()

    monkeypatch.setattr(webhooks, "due", look)
    monkeypatch.setattr(send_webhooks._Sending, "end", end_and_say)
    receiver.answering.clear()
    deliver(sending, until=1)
    sending.worker.stopping.clear()
    assert looks[:2] == [1, 1]
    assert receiver.events() == ["accepted"]
