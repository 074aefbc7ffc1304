"""Webhooks over HTTP: a tenant's and a batch's, and what was delivered to them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Client
from pipeline.operations.webhooks import delivery_as_dict, endpoint_as_dict
from pipeline.records.tokens import EVERY_TENANT, Scope
from tasks.control.webhook_events import hand_over_events
from tests.pipeline.service.served import Served

_URL = "https://hooks.example/s3cret-path"


def _data(served: Served, path: str, **how: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = served.ask("GET", path, **how).json["data"]
    return found


def test_webhooks_of_a_tenant_and_of_a_batch_are_their_owners_alone(served: Served) -> None:
    other, operator = served.new_token("two"), served.new_token(EVERY_TENANT, Scope.ADMIN)
    with served.held():
        rows = [{"prompt": "p", "width": 64, "height": 64}]
        body = {"prompts": rows, "batch_id": "hooked", "webhooks": ["https://first.example/x"]}
        assert served.ask("POST", "/api/batches", body).status == 201
        added = served.ask("POST", "/api/webhooks", {"url": _URL, "events": ["completed"]})
        assert (added.status, added.json["tenant"], added.json["to"]) == (201, "one", "https://hooks.example/…")
        of_batch = served.ask("POST", "/api/batches/hooked/webhooks", {"url": "https://third.example/y"})
        assert (of_batch.status, of_batch.json["batch"]) == (201, "hooked")
        assert [one["to"][8:13] for one in _data(served, "/api/batches/hooked/webhooks")] == ["first", "third"]
        assert [one["id"] for one in _data(served, "/api/webhooks")] == [added.json["id"], of_batch.json["id"]]
        assert [one["id"] for one in _data(served, "/api/webhooks?batch=hooked")] == [of_batch.json["id"]]
        assert _data(served, "/api/webhooks", token=other) == []
        assert len(_data(served, "/api/webhooks?tenant=one", token=operator)) == 2
        foreign: tuple[tuple[str, str, dict[str, str] | None], ...] = (
            ("DELETE", f"/api/webhooks/{added.json['id']}", None),
            ("GET", "/api/batches/hooked/webhooks", None),
            ("POST", "/api/batches/hooked/webhooks", {"url": _URL}),
            ("POST", "/api/webhooks", {"url": _URL, "batch": "hooked"}),
            ("DELETE", f"/api/batches/hooked/webhooks/{of_batch.json['id']}", None),
            ("POST", "/api/webhooks/deliveries/msg_0/resend", None),
        )
        for method, path, wanted in foreign:
            assert served.ask(method, path, wanted, token=other).status == 404, path
        assert served.ask("POST", "/api/webhooks", {"url": _URL, "tenant": "one"}, token=other).status == 400
        for url in ("http://10.0.0.1/", "https://10.0.0.1/", "https://user:pw@x.example/", "javascript:alert(1)", ""):
            refused = served.ask("POST", "/api/webhooks", {"url": url})
            assert (refused.status, refused.error["code"]) == (400, "RequestError"), url
            assert "pw" not in refused.error["message"]
        assert served.ask("POST", "/api/webhooks", {"url": _URL, "events": ["born"]}).status == 400

        hand_over_events(served.stage.worker)
        sent = _data(served, "/api/webhooks/deliveries?batch=hooked")
        assert {one["to"][8:13] for one in sent} == {"first", "third"}  # `accepted`, which the tenant's does not want
        assert all("url" not in one and "body" not in one for one in sent)
        assert _data(served, "/api/webhooks/deliveries", token=other) == []
        path = f"/api/webhooks/deliveries/{sent[0]['id']}/resend"
        assert served.ask("POST", path, token=other).status == 404
        assert served.ask("POST", path).json["id"] == sent[0]["id"]
        assert served.ask("POST", path, token=served.new_token("one", Scope.READ)).status == 403
    assert served.ask("DELETE", f"/api/batches/hooked/webhooks/{of_batch.json['id']}").status == 204
    assert served.ask("DELETE", f"/api/webhooks/{added.json['id']}").status == 204
    gone = served.ask("DELETE", f"/api/webhooks/{added.json['id']}")
    assert (gone.status, gone.error["code"]) == (404, "UnknownWebhook")


def test_the_client_has_them_too(served: Served) -> None:
    near, far = Client(served.connection), Client(served.url, token=served.token)
    added = far.webhooks.add(_URL, events=["failed"])
    try:
        assert [endpoint_as_dict(one) for one in far.webhooks.list()] == [
            endpoint_as_dict(one) for one in near.webhooks.list("one")
        ]
        assert [delivery_as_dict(one) for one in far.webhooks.deliveries(limit=5)] == [
            delivery_as_dict(one) for one in near.webhooks.deliveries(tenant="one", limit=5)
        ]
        assert far.webhooks.secrets() == near.webhooks.secrets("one")
    finally:
        far.webhooks.remove(added.id)
    with pytest.raises(Exception, match="no webhook"):
        far.webhooks.remove(added.id)
