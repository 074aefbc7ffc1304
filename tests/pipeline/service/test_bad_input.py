"""Whatever is sent, the answer says what was wrong with it, in one shape, and the service goes on."""

from __future__ import annotations

import json
import threading
import urllib.parse
import urllib.request
import uuid
from typing import Any

import pytest

from pipeline.records.tokens import EVERY_TENANT, Scope
from tests.hostile_names import HOSTILE_NAMES
from tests.pipeline.service.served import Answer, Served

# What a client that is broken, or hostile, may send in the place of a JSON object.
_BODIES: tuple[bytes, ...] = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe{}",
    b"NaN",
    b'{"prompts": NaN, "url": 1e999, "spec": 0, "priority": 1e99, "hours": [], "codes": {}}',
    b'{"prompts": {"a": 1}, "url": null, "spec": [], "priority": true, "batch_id": ["x"], "codes": [null]}',
    b'{"prompts": ["\\u0000", "\\ud800"], "url": "\\ud800", "spec": {"cron": "\\u0000", "prompts": "\\ud800"}, '
    b'"prompt": "\\ud800", "input_file_id": "\\ud800", "endpoint": "/v1/images/generations"}',
    b'{"prompts": [[[]]], "labels": {"\\u0000": "\\u0000"}, "options": {"steps": 1e400}, "priority": "NaN"}',
    b'{"prompts": ["a"], "options": {"size": "-1x-1"}, "override": {"seed": 99999999999999999999999999}}',
    b'{"prompts": ["a"], "webhooks": [{"url": []}], "batch_seed": 1.5, "tenant": "../x"}',
    b'{"model": {}, "prompt": [], "n": 1e30, "size": "0x0", "response_format": 5}',
    b'{"a": ' * 2000 + b"1" + b"}" * 2000,
)
_IDS = ("..", "%00", "%ff", "a" * 3000, "%F0%9F%98%80", "*", "-1", "1e9", "{}", "x%0d%0aSet-Cookie:%20a=b")
_HUGE = (2**31, 2**53 + 1, 2**63 - 1, 2**64, 10**400, -(2**63))


def _checked(answer: Answer, what: str) -> Answer:
    """Not ours to blame: no 500, and every refusal has the one shape."""
    assert answer.status < 500, f"{what}: {answer.status} {answer.body[:300]!r}"
    if answer.status >= 400:
        assert set(answer.error) >= {"message", "type", "code", "param"}, what
        assert answer.error["message"], what
    return answer


def _routes(served: Served) -> list[tuple[str, str]]:
    found = served.ask("GET", "/api/openapi.json").json["paths"]
    return [(method.upper(), path) for path, methods in found.items() for method in methods]


def test_a_body_that_is_none_of_what_is_wanted_is_refused_by_every_route(served: Served) -> None:
    admin = served.new_token(EVERY_TENANT, Scope.ADMIN)
    with served.held():
        for method, path in _routes(served):
            if method == "GET" or path == "/v1/images/generations":
                continue
            concrete = path.replace("{batch_id}", "none").replace("{", "").replace("}", "")
            for body in _BODIES:
                answer = served.ask(method, concrete, body=body, token=admin, content_type="application/json")
                _checked(answer, f"{method} {concrete} {body[:60]!r}")
        for body in _BODIES:
            answer = served.ask(
                "POST", "/v1/images/generations", body=body, token=admin, content_type="application/json"
            )
            assert _checked(answer, f"generations {body[:60]!r}").status >= 400


def test_an_id_that_is_none_is_unknown_to_every_route(served: Served) -> None:
    for method, path in _routes(served):
        if "{" not in path or method in ("POST", "PUT"):
            continue
        before, _, rest = path.partition("{")
        after = rest.partition("}")[2].replace("{", "").replace("}", "")
        for one in _IDS:
            answer = _checked(served.ask(method, before + one + after), f"{method} {path} {one[:20]}")
            assert answer.status >= 400, (path, one)
            assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("query", ["limit=-1", "limit=1e9", "limit=", "after=%00", "state=born", "since=tomorrow"])
def test_a_query_that_cannot_be_is_refused(served: Served, query: str) -> None:
    answer = _checked(served.ask("GET", f"/api/batches?{query}"), query)
    assert answer.status in (400, 404, 422)


def _numbers(served: Served) -> list[tuple[str, str, str]]:
    """Method, path and name of every parameter of a query that is a number; those of pages are not described."""
    found = served.ask("GET", "/api/openapi.json").json["paths"]
    described = [
        (method.upper(), path, one["name"])
        for path, methods in found.items()
        for method, about in methods.items()
        for one in about.get("parameters", ())
        if one["in"] == "query" and one["schema"].get("type") in ("integer", "number")
    ]
    return [*described, *(("GET", "/batches/{batch_id}/tiles", name) for name in ("first", "count"))]


@pytest.mark.parametrize(
    "number", [2**31, 2**53 + 1, 2**63 - 1, 2**64, 10**400, -(2**63)], ids=lambda one: f"{len(str(one))} characters"
)
def test_a_number_however_large_is_nobodys_fault_but_the_askers(served: Served, number: int) -> None:
    batch = served.stage.accepted(2, f"of-{abs(number) % 997}-{number > 0:d}", tenant="one")
    asked = _numbers(served)
    assert ("GET", "/api/batches/{batch_id}/rows", "first") in asked
    for method, path, name in asked:
        concrete = f"{path.replace('{batch_id}', batch).replace('{name}', 'none')}?{name}={number}"
        answer = served.ask(method, concrete)
        if answer.status >= 400:
            _checked(answer, f"{method} {concrete[:200]}")
    assert served.ask("GET", f"/api/batches/{batch}/rows?first=1").body.count(b"\n") == 1


@pytest.mark.parametrize(
    "name",
    [
        '../../x"; filename="y.jsonl',
        "<img src=x onerror=alert(1)>.jsonl",
        *(one for one in HOSTILE_NAMES if one.isprintable()),
    ],
)
def test_a_hostile_file_name_names_nothing_but_itself(served: Served, name: str) -> None:
    edge = uuid.uuid4().hex
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = head.encode("utf-8", "surrogateescape") + b'{"prompt": 1}\n' + f"\r\n--{edge}--\r\n".encode()
    sent = served.ask("POST", "/api/files", body=body, Content_Type=f"multipart/form-data; boundary={edge}")
    if _checked(sent, name).status == 201:
        refused = served.ask("POST", "/api/batches", {"input_file": sent.json["id"], "input_format": "jsonl"})
        assert _checked(refused, name).status == 422
        key = f"/v1/files/{urllib.parse.quote(sent.json['id'])}"
        found = served.ask("GET", f"{key}/content")
        assert found.body == b'{"prompt": 1}\n'
        assert "\n" not in found.headers.get("Content-Disposition", "")
        assert served.ask("DELETE", key).status == 200


def test_ten_thousand_rows_with_errors_are_all_said(served: Served) -> None:
    rows = [{"prompt": f"p{number}", "steps": -1, "size": "64x64"} for number in range(10_000)]
    for path in ("/api/validate", "/api/batches"):
        answer = served.ask("POST", path, {"prompts": rows})
        found = answer.json if path == "/api/validate" else answer.error
        assert (found["total"], len(found["errors"])) == (10_000, 10_000), path
        assert (found["errors"][-1]["line"], found["errors"][-1]["field"]) == (10_000, "steps")


def test_two_hundred_followers_leave_room_for_others(served: Served) -> None:
    with served.held():
        served.ask("POST", "/api/batches", {"prompts": ["p"], "options": {"size": "64x64"}, "batch_id": "crowded"})
        with_status: list[bytes] = []
        lock = threading.Lock()
        follows, over = threading.Semaphore(0), threading.Event()

        def follow() -> None:
            request = urllib.request.Request(  # noqa: S310  # our own server
                f"{served.url}/api/batches/crowded/events", headers={"Authorization": f"Bearer {served.token}"}
            )
            with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310  # the same
                line = answer.readline()
                with lock:
                    with_status.append(line)
                follows.release()
                over.wait(60)

        threads = [threading.Thread(target=follow, daemon=True) for _ in range(200)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert follows.acquire(timeout=300)
        assert served.ask("GET", "/api/batches/crowded/status").status == 200
        assert set(with_status) == {b"event: status\n"}
        over.set()
        for thread in threads:
            thread.join()


def test_html_of_a_prompt_is_text_wherever_it_is_shown(served: Served) -> None:
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;{{7*7}}"
    rows = [{"prompt": hostile, "custom_id": "x", "metadata": {"k": hostile}, "size": "64x64"}]
    made = served.ask("POST", "/api/batches", {"prompts": rows, "labels": {"l": "<b>"}}).json["batch"]
    served.ended(made)
    for path in ("/", f"/batches/{made}", f"/batches/{made}/live", f"/batches/{made}/images/0000000-000"):
        page = served.ask("GET", path)
        assert page.status == 200, path
        assert b"<script>alert" not in page.body
        assert b"<img src=x" not in page.body
    found = served.ask("GET", f"/batches/{made}/tiles/found?search={urllib.parse.quote(hostile)}")
    assert found.headers["Content-Type"].startswith("application/json")
    assert json.loads(found.body)["tiles"][0][3] == "x"


def test_metadata_of_another_kind_of_request_is_refused(served: Served) -> None:
    for method, path in (("PATCH", "/api/batches"), ("GET", "/api/none"), ("POST", "/api/openapi.json")):
        assert _checked(served.ask(method, path), path).status in (404, 405)
    head: Any = served.ask("POST", "/api/batches", body=b"x=1", content_type="application/x-www-form-urlencoded")
    assert _checked(head, "a form").status == 422
