"""Who may ask for what."""

from __future__ import annotations

import json
import socket
from datetime import timedelta
from unittest.mock import Mock

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner
from uvicorn.server import ServerState

from pipeline.bucket.artifacts import Artifacts
from pipeline.cli.main import app
from pipeline.client.connection import Connection
from pipeline.ledger import Ledger
from pipeline.operations.tokens import create_token, revoke_token
from pipeline.records.tokens import EVERY_TENANT, Scope, parsed_token
from pipeline.service import head_deadline, http_guard
from tests.pipeline.service.served import Served


@pytest.fixture(scope="module")
def batch(served: Served) -> str:
    """A batch of tenant `one`."""
    return served.stage.accepted(2, "of-one", tenant="one")


def test_probes_ask_for_no_token(served: Served) -> None:
    assert served.ask("GET", "/healthz", token=None).status == 200
    assert served.ask("GET", "/readyz", token=None).status == 200


def test_nobody_gets_in_without_a_token(served: Served) -> None:
    for token in (None, "tess_000000000000_" + "x" * 43, "not a token"):
        answer = served.ask("GET", "/api/batches", token=token)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "tessera token create" in answer.error["message"]


def test_a_token_ends_when_it_expires_or_is_revoked(served: Served) -> None:
    short = create_token(served.stage.ledger, "one", (Scope.READ,), life=timedelta(microseconds=1)).text
    assert served.ask("GET", "/v1/models", token=short).status == 401
    token = served.new_token("one")
    assert served.ask("GET", "/v1/models", token=token).status == 200
    parsed = parsed_token(token)
    assert parsed is not None
    revoke_token(served.stage.ledger, parsed[0])
    assert served.ask("GET", "/v1/models", token=token).status == 401


def test_the_ledger_keeps_no_token_that_could_be_used(served: Served) -> None:
    parsed = parsed_token(served.token)
    assert parsed is not None
    kept = served.stage.ledger.store.redis.hgetall(served.stage.ledger.store.keys.tokens)
    assert parsed[0] in kept
    assert parsed[1] not in "".join(kept.values())


def test_a_tenant_sees_its_own_batches_only(served: Served, batch: str) -> None:
    other, operator = served.new_token("two"), served.new_token(EVERY_TENANT, Scope.READ)
    assert served.ask("GET", f"/api/batches/{batch}").json["total"] == 2
    hidden, unknown = (served.ask("GET", f"/api/batches/{name}", token=other) for name in (batch, "never"))
    assert hidden.status == unknown.status == 404
    assert hidden.error["message"].replace(batch, "never") == unknown.error["message"]
    assert served.ask("GET", "/api/batches", token=other).json["data"] == []
    assert [one["id"] for one in served.ask("GET", "/api/batches", token=operator).json["data"]] == [batch]


def test_a_scope_that_is_missing_is_named(served: Served) -> None:
    answer = served.ask("GET", "/api/batches", token=served.new_token("one", Scope.SUBMIT))
    assert answer.status == 403
    assert answer.error["message"] == "scope 'read' wanted; this token has submit"


def test_a_session_of_the_page_counts_for_its_own_requests_only(served: Served, batch: str) -> None:
    cookie = f"tessera_session={served.token}"
    assert served.ask("GET", f"/api/batches/{batch}", token=None, Cookie=cookie).status == 200
    for header in ({"Origin": "https://elsewhere.example"}, {"Sec_Fetch_Site": "cross-site"}):
        path = f"/api/batches/{batch}/pause"
        assert served.ask("POST", path, token=None, Cookie=cookie, **header).status == 403


def test_no_header_is_trusted_by_default(served: Served) -> None:
    assert served.ask("GET", "/api/batches", token=None, X_Forwarded_User="one").status == 401


def test_a_proxy_is_believed_if_it_is_one_of_those_named(served: Served, batch: str) -> None:
    own = served.stage.settings.model_copy(
        update={"api_trusted_header": "X-Tenant", "api_trusted_proxies": ("127.0.0.0/8",)}
    )
    with served.with_settings(own):
        assert served.ask("GET", f"/api/batches/{batch}", token=None, X_Tenant="one").status == 200
        assert served.ask("GET", f"/api/batches/{batch}", token=None, X_Tenant="two").status == 404
    with served.with_settings(own.model_copy(update={"api_trusted_proxies": ("10.0.0.0/8",)})):
        assert served.ask("GET", f"/api/batches/{batch}", token=None, X_Tenant="one").status == 401


def test_more_requests_than_allowed_are_refused_until_the_next_minute(served: Served) -> None:
    with served.with_settings(served.stage.settings.model_copy(update={"api_requests_per_minute": 3})):
        token = served.new_token("one")
        answers = [served.ask("GET", "/v1/models", token=token) for _ in range(8)]
    assert answers[0].status == 200
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert 0 < int(refused[-1].headers["Retry-After"]) <= 60
    assert "TESSERA_API_REQUESTS_PER_MINUTE" in refused[-1].error["message"]


def test_answers_carry_headers_that_keep_browsers_safe(served: Served) -> None:
    headers = served.ask("GET", "/healthz", token=None).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "server" not in headers


def _from_the_bucket(batch: str) -> tuple[str, ...]:
    """Answers that come bit by bit from the bucket."""
    own = f"/api/batches/{batch}"
    objects = (f"{own}/objects?folder=images/", f"{own}/objects/results.jsonl", f"{own}/images/0000000-000/thumbnail")
    return (*objects, f"{own}/rows", f"/v1/files/output-{batch}/content", f"/v1/files/errors-{batch}/content")


def test_while_redis_or_s3_is_away_nothing_is_lost_and_the_answer_says_when_to_ask_again(
    served: Served, batch: str
) -> None:
    settings = served.stage.settings
    no_redis = settings.model_copy(update={"redis_url": SecretStr("redis://:secret@127.0.0.1:9/0")})
    no_s3 = settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    with served.with_connection(Connection(no_redis, Ledger(no_redis), served.stage.artifacts)):
        for path in ("/api/batches", "/readyz"):
            answer = served.ask("GET", path)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert "nothing was lost" in answer.error["message"]
            assert "127.0.0.1" not in answer.error["message"]
        assert served.ask("GET", "/healthz").status == 200
    with served.with_connection(Connection(no_s3, served.stage.ledger, Artifacts(no_s3))):
        assert served.ask("GET", "/readyz").status == 503
        assert served.ask("GET", "/api/batches").status == 200
        for path in _from_the_bucket(batch):
            answer = served.ask("GET", path)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5"), path
    assert served.ask("GET", "/readyz").status == 200


def test_a_body_that_does_not_come_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_guard, "_PATIENCE_S", 0.2)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        head = f"POST /api/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token}\r\n"
        slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{".encode())
        answer = b""
        while chunk := slow.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"bytes a second wanted" in answer


_WHOLE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("answered", [0, 1])
@pytest.mark.parametrize("sent", [b"G", _WHOLE[:-2]])
def test_a_head_that_does_not_come_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes, answered: int
) -> None:
    monkeypatch.setattr(head_deadline, "HEAD_S", 3.0)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as slow:
        for _ in range(answered):  # on the same connection
            slow.sendall(_WHOLE)
            assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        slow.sendall(sent)
        answer = b""
        while chunk := slow.recv(4096):
            answer += chunk
    assert answer.count(b"HTTP/1.1 408") == 1
    assert b"did not come within 3 seconds" in answer


def test_who_has_asked_is_waited_for_no_more(served: Served) -> None:
    timers = [Mock() for _ in range(9)]
    loop = Mock()
    loop.call_later.side_effect = timers
    loop.create_task.side_effect = lambda work, **_: work.close() or Mock()
    protocol = head_deadline.HeadDeadline(served.server.config, ServerState(), {}, _loop=loop)
    protocol.connection_made(Mock())
    protocol.data_received(_WHOLE[:20])
    assert not timers[0].cancel.called
    protocol.data_received(_WHOLE[20:])
    assert timers[0].cancel.called
    assert loop.call_later.call_count == 1


def test_a_token_that_cannot_be_read_is_listed_as_such_and_can_be_revoked(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in served.stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    served.new_token("two")
    store = served.stage.ledger.store
    store.redis.hset(store.keys.tokens, "bad", "{")
    rows = CliRunner().invoke(app, ["token", "list"]).output
    assert "two" in rows
    assert "token bad cannot be read by this version" in rows
    lines = [json.loads(line) for line in CliRunner().invoke(app, ["token", "list", "--json"]).output.splitlines()]
    assert {"id": "bad", "state": "unreadable"}.items() <= lines[-1].items()
    assert CliRunner().invoke(app, ["token", "revoke", "bad"]).exit_code == 0
    assert "bad" not in CliRunner().invoke(app, ["token", "list"]).output


def test_the_command_makes_lists_and_revokes_tokens(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in served.stage.settings.environment().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["token", *arguments])
        return done.stdout + (str(done.exception) if done.exception else "")

    made = json.loads(run("create", "--tenant", "two", "--scope", "read", "--expires", "1h", "--note", "CI", "--json"))
    assert served.ask("GET", "/api/whoami", token=made["token"]).json["tenant"] == "two"
    listed = run("list")
    assert made["id"] in listed
    assert made["token"] not in listed
    assert "is revoked" in run("revoke", made["id"])
    assert served.ask("GET", "/api/whoami", token=made["token"]).status == 401
    assert "no token" in run("revoke", made["id"])
    assert "a span as in 30d" in run("create", "--expires", "soon")
