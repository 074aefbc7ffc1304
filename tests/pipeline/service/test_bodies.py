"""Who may not ask is told so before a byte of their body is read."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.parse

import pytest

from pipeline.records.tokens import Scope
from tests.pipeline.service.served import Served

_READERS = ("/api/validate", "/api/estimate")


def _with_body(served: Served) -> list[tuple[str, str]]:
    """Method and path of every route that takes a body."""
    found = served.ask("GET", "/api/openapi.json").json["paths"]
    return [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, methods in found.items()
        for method, about in methods.items()
        if "requestBody" in about
    ]


def _status_of_head(served: Served, method: str, path: str, token: str | None, length: int = 1000) -> int:
    """What is answered to a request whose body does not come."""
    address = urllib.parse.urlsplit(served.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
    with contextlib.closing(connection):
        connection.putrequest(method, path)
        if token is not None:
            connection.putheader("Authorization", f"Bearer {token}")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(length))
        connection.endheaders()
        answer = connection.getresponse()
        assert json.loads(answer.read())["error"]["message"]
        assert answer.headers["Connection"] == "close"
        return answer.status


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
def test_nobodys_body_is_looked_at(served: Served, kind: str) -> None:
    routes = _with_body(served)
    assert {("POST", "/api/batches"), ("POST", "/v1/files"), ("PUT", "/api/schedules/name")} <= set(routes)
    for method, path in routes:
        answer = served.ask(method, path, body=b"{", token=None, Content_Type=kind)
        assert answer.status == 401, path


def test_who_may_not_ask_is_told_before_the_body_comes(served: Served) -> None:
    reads, submits = served.new_token("one", Scope.READ), served.new_token("one", Scope.SUBMIT)
    for method, path in _with_body(served):
        assert _status_of_head(served, method, path, None) == 401, path
        assert _status_of_head(served, method, path, submits if path in _READERS else reads) == 403, path


def test_a_client_that_sends_all_before_it_looks_finds_the_refusal(served: Served) -> None:
    answer = served.ask("POST", "/api/batches", body=b"x" * (9 << 20), token=None, Content_Type="application/json")
    assert answer.status == 401


def test_pages_take_no_more_than_a_token(served: Served) -> None:
    for path in ("/login", "/sign-in", "/share", "/logout"):
        assert _status_of_head(served, "POST", path, None, 1 << 17) == 413
