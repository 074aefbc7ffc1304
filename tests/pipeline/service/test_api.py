"""Our own resources: what the command line can do, over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.records.tokens import EVERY_TENANT, Scope
from pipeline.states import BatchState
from tests.pipeline.service.served import Answer, Served


def _rows(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"hill {number}", "width": 64, "height": 128, **fields} for number in range(count)]


def _upload(served: Served, name: str, body: bytes, query: str = "", **headers: str) -> Answer:
    edge = uuid.uuid4().hex
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    form = head.encode() + body + f"\r\n--{edge}--\r\n".encode()
    return served.ask(
        "POST", f"/api/files{query}", body=form, Content_Type=f"multipart/form-data; boundary={edge}", **headers
    )


@pytest.fixture(scope="module")
def finished(served: Served) -> str:
    """A batch of twelve images that are all there."""
    answer = served.ask(
        "POST", "/api/batches", {"prompts": _rows(12, negative_prompt="<b>fog</b>"), "batch_id": "done"}
    )
    assert answer.status == 201, answer.body
    served.ended("done")
    return "done"


def test_submit_takes_what_the_command_takes(served: Served) -> None:
    body = {
        "prompts": ["a fox", *_rows(1, size=None)],
        "options": {"size": "64x128", "steps": 4},
        "override": {"guidance_scale": 3.0},
        "labels": {"project": "atlas"},
        "priority": 2,
        "batch_seed": 7,
        "batch_id": "mine",
        "tenant": "one",
    }
    body["prompts"][1] = {"prompt": "a hill", "width": 64, "height": 128}  # type: ignore[index]
    with served.held():
        first, again = served.ask("POST", "/api/batches", body), served.ask("POST", "/api/batches", body)
        assert (first.status, again.status) == (201, 200)
        assert first.json["created"]
        assert first.headers["Location"] == "/api/batches/mine"
        manifest = served.stage.ledger.batches.get("mine").manifest
        assert (manifest.tenant, manifest.priority, manifest.seed) == ("one", 2, 7)
        assert manifest.overrides == {"guidance_scale": 3.0}
        listed = served.ask("GET", "/api/batches?label=project%3Datlas&state=validating&state=in_progress").json
        assert [one["id"] for one in listed["data"]] == ["mine"]
        other = served.ask("POST", "/api/batches", body | {"prompts": ["another"]})
        assert (other.status, other.error["code"]) == (409, "BatchExists")
        theirs = served.ask(
            "POST", "/api/batches", {"prompts": ["x"], "batch_id": "mine"}, token=(two := served.new_token("two"))
        )
        assert (theirs.status, theirs.error["message"]) == (409, "batch id 'mine' is taken; choose another")
        same = served.ask("POST", "/api/batches", body | {"tenant": "two"}, token=two)
        assert (same.status, same.error["message"]) == (409, "batch id 'mine' is taken; choose another")
    rows = served.ask("GET", "/api/batches/mine/rows?first=1").body.splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == ["a hill"]


def test_an_idempotency_key_is_one_batch(served: Served) -> None:
    answers = [served.ask("POST", "/api/batches", {"prompts": _rows(1)}, Idempotency_Key="k 1") for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 200]
    assert answers[0].json["batch"] == answers[1].json["batch"]
    other = served.ask("POST", "/api/batches", {"prompts": _rows(2)}, Idempotency_Key="k 1")
    assert other.status == 409
    theirs = served.ask(
        "POST", "/api/batches", {"prompts": _rows(1)}, Idempotency_Key="k 1", token=served.new_token("two")
    )
    assert theirs.json["batch"] != answers[0].json["batch"]


def test_every_error_has_its_line_and_field(served: Served) -> None:
    rows = [*_rows(1), {"prompt": 7}, {"prompt": "x", "steps": -1}, *_rows(10_000, width=7)]
    refused = served.ask("POST", "/api/batches", {"prompts": rows})
    assert (refused.status, refused.error["code"], refused.error["total"]) == (422, "PromptSetError", 10_001)
    assert [(one["line"], one["field"]) for one in refused.error["errors"][:2]] == [(2, "prompt"), (3, "steps")]
    found = served.ask("POST", "/api/validate", {"prompts": rows[:600]}).json
    assert (found["rows"], found["invalid_rows"], found["acceptable"]) == (1, 599, False)
    assert [one["line"] for one in found["errors"]] == list(range(2, 601))
    assert found["errors"][-1]["field"] == "width"


def test_a_file_in_any_form_is_uploaded_checked_estimated_and_submitted(served: Served) -> None:
    body = gzip.compress(b'prompt;size\na fox;64x128\n"a, hill";128x64\n')
    answer = _upload(served, "..\\..\\etc/<script>\u202eprompts.csv.gz", body)
    assert answer.status == 200, answer.body
    assert answer.json["filename"] == "<script>\u202eprompts.csv.gz"
    wanted = {"input_file": answer.json["id"]}
    assert served.ask("POST", "/api/validate", wanted).json["rows"] == 2
    estimate = served.ask("POST", "/api/estimate", wanted | {"pods": 2}).json
    assert (estimate["images"], estimate["jobs"]) == (2, 1)
    assert served.ask("POST", "/api/batches", wanted).json["rows"] == 2
    bad = _upload(served, "bad.csv", b"prompt,size\nx,7x7\n").json["id"]
    refused = served.ask("POST", "/api/batches", {"input_file": bad})
    assert refused.error["message"].startswith("bad.csv: 1 error")
    unknown = _upload(served, "picture.tiff", b"II*").json["id"]
    assert (
        "'picture.tiff' is no path that ends in"
        in served.ask("POST", "/api/batches", {"input_file": unknown}).error["message"]
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "prompts or input_file wanted"),
        ({"prompts": ["x"], "input_file": "file-0"}, "one of them"),
        ({"prompts": "s3://bucket/key.jsonl"}, "list"),
        ({"prompts": ["x"], "stepss": 3}, "stepss"),
        ({"prompts": ["x"], "options": {"stepss": 3}}, "stepss"),
        ({"prompts": ["x"], "priority": 11}, "0 (first) to 9 (last)"),
        ({"prompts": ["x"], "tenant": "two"}, "this token is of tenant 'one'"),
        ({"prompts": ["x"], "batch_id": "../x"}, "batch id"),
        ({"input_file": "../../batches/done/results.jsonl"}, "no file"),
    ],
)
def test_a_submission_that_cannot_be_is_refused_by_name(served: Served, body: dict[str, Any], message: str) -> None:
    answer = served.ask("POST", "/api/batches", body)
    assert answer.status in (400, 404, 422)
    assert message in answer.error["message"]


def test_images_come_page_by_page_and_are_found(served: Served, finished: str) -> None:
    first = served.ask("GET", f"/api/batches/{finished}/images?limit=5").json
    second = served.ask("GET", f"/api/batches/{finished}/images?limit=100&after={first['after']}").json
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert [one["row"] for one in [*first["data"], *second["data"]]] == list(range(12))
    found = served.ask("GET", f"/api/batches/{finished}/images?search=HILL%2011").json["data"]
    assert [one["custom_id"] for one in found] == ["row-12"]
    path = found[0]["thumbnail_url"].removeprefix(served.url)
    assert served.ask("GET", path).headers["Content-Type"] == "image/jpeg"
    one = served.ask("GET", f"/api/batches/{finished}/images/{found[0]['image_id']}").json
    assert (one["prompt"], one["negative_prompt"], one["steps"]) == ("hill 11", "<b>fog</b>", 30)
    for name in ("0000099-000", "x", "../../x"):
        assert served.ask("GET", f"/api/batches/{finished}/images/{name}/file").status in (400, 404)


def test_files_of_a_batch_are_those_that_users_look_at(served: Served, finished: str) -> None:
    keys = [
        json.loads(line)["key"]
        for line in served.ask("GET", f"/api/batches/{finished}/objects?folder=images/").body.splitlines()
    ]
    assert keys[:2] == ["images/00000/0000000-000.json", "images/00000/0000000-000.png"]
    base = f"/api/batches/{finished}/objects/"
    assert served.ask("GET", f"{base}results.jsonl").body.count(b"\n") == 12
    page = served.ask("GET", f"{base}gallery/index.html")
    assert page.headers["Content-Type"].startswith("text/plain")  # it runs nothing in our origin
    part = served.ask("GET", f"{base}{keys[1]}", Range="bytes=1-3")
    assert (part.status, part.body, part.headers["Content-Range"][:10]) == (206, b"PNG", "bytes 1-3/")
    assert served.ask("GET", f"{base}{keys[1]}", Range="bytes=99999999-").status == 416
    manifest = served.stage.ledger.batches.get(finished).manifest
    for key in ("batch.json", f"staged/{manifest.staged}/input.jsonl", "images/../batch.json", "shards/00000.jsonl"):
        assert served.ask("GET", base + key).status == 404


def test_presigned_links_lead_to_the_bucket_as_clients_reach_it(served: Served, finished: str) -> None:
    before = served.connection.settings
    outside = str(before.s3_endpoint).replace("127.0.0.1", "localhost")
    changes = {"api_links": "presigned", "api_links_endpoint": outside, "api_link_minutes": 2.0}
    settings = before.model_copy(update=changes)
    with served.with_connection(replace(served.connection, settings=settings, artifacts=Artifacts(settings))):
        url = served.ask("GET", f"/api/batches/{finished}/images/0000003-000").json["file_url"]
        assert url.startswith(f"{outside}/")
        assert "X-Amz-Expires=120" in url
        for headers, status in (({}, 200), ({"Range": "bytes=1-3"}, 206)):  # no token: the link is enough
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:  # noqa: S310
                assert (answer.status, b"PNG" in answer.read()[:4]) == (status, True)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url.replace("0000003", "0000004"), timeout=60)  # noqa: S310  # our own store
        assert served.ask("GET", f"/api/batches/{finished}/images/0000003-000/file").body[1:4] == b"PNG"  # redirected


def test_what_is_wanted_is_changed(served: Served) -> None:
    with served.held():
        served.ask("POST", "/api/batches", {"prompts": _rows(2), "batch_id": "changed"})
        assert served.ask("POST", "/api/batches/changed/pause").json["state"] == "paused"
        assert served.ask("POST", "/api/batches/changed/unpause").json["state"] != "paused"
        assert served.ask("POST", "/api/batches/changed/priority", {"priority": 0}).status == 200
        assert served.ask("GET", "/api/batches/changed/status").json["priority"] == 0
        assert served.ask("POST", "/api/batches/changed/priority", {"priority": 10}).status == 400
        assert served.ask("POST", "/api/batches/changed/retry").status == 400
        assert served.ask("POST", "/api/batches/changed/cancel").json["state"] == "cancelling"
    assert served.ended("changed") is BatchState.CANCELLED
    assert served.ask("POST", "/api/batches/changed/purge").status == 403
    admin = served.new_token("one", Scope.ADMIN)
    assert served.ask("POST", "/api/batches/changed/purge", token=admin).status == 200


def test_schedules_are_the_tenants_own(served: Served) -> None:
    file_id = _upload(served, "p.jsonl", b'{"prompt": "x", "width": 64, "height": 128}\n').json["id"]
    spec = {"cron": "0 3 * * *", "prompts": file_id}
    added = served.ask("PUT", "/api/schedules/nightly", {"spec": spec})
    assert added.status == 200, added.body
    assert added.json["tenant"] == "one"
    two = served.new_token("two")
    assert served.ask("GET", "/api/schedules/nightly", token=two).status == 404
    assert served.ask("GET", "/api/schedules", token=two).json["data"] == []
    assert served.ask("PUT", "/api/schedules/nightly", {"spec": spec}, token=two).status == 400
    assert served.ask("POST", "/api/schedules/nightly/pause").json["paused"]
    assert served.ask("POST", "/api/schedules/nightly/run").json["batch"].startswith("nightly-")
    assert served.ask("GET", "/api/schedules/nightly/history").json["data"] == []
    stolen = spec | {"prompts": f"{served.stage.artifacts.root}batches/done/results.jsonl"}
    assert "prompts" in served.ask("PUT", "/api/schedules/thief", {"spec": stolen}).error["message"]
    assert served.ask("DELETE", "/api/schedules/nightly").status == 204


def test_a_batch_is_meant_by_the_beginning_of_its_id(served: Served, finished: str) -> None:
    assert served.ask("GET", "/api/batch-id/don").json["id"] == finished
    assert served.ask("GET", "/api/batch-id/don", token=served.new_token("two")).status == 404
    operator = served.new_token(EVERY_TENANT, Scope.READ)
    assert served.ask("GET", "/api/batch-id/don", token=operator).json["id"] == finished


def test_an_operator_checks_and_submits_a_file_for_a_tenant(served: Served) -> None:
    operator = served.new_token(EVERY_TENANT)
    uploaded = _upload(served, "p.txt", b"a fox\n", "?tenant=two", token=operator).json["id"]
    body = {"input_file": uploaded, "options": {"size": "64x128"}}
    for path in ("/api/validate", "/api/estimate", "/api/batches"):
        assert served.ask("POST", path, body, token=operator).status == 404  # which is no file of `default`
        answer = served.ask("POST", path, body | {"tenant": "two"}, token=operator)
        assert answer.status in (200, 201), answer.body
        assert served.ask("POST", path, body | {"tenant": "two"}).status == 400  # with a token of `one`
    assert answer.json["tenant"] == "two"


def test_a_tenant_at_its_limit_is_refused(served: Served) -> None:
    answer = served.ask("POST", "/api/batches", {"prompts": _rows(4)}, token=served.new_token("small"))
    assert (answer.status, answer.error["code"]) == (429, "LimitReached")
    assert "Retry-After" in answer.headers


def test_a_body_that_is_too_large_is_refused_before_it_is_read(served: Served) -> None:
    """By what its head says of its length; whoever sends on may find the connection closed."""
    address = urllib.parse.urlsplit(served.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/api/files")
        connection.putheader("Authorization", f"Bearer {served.token}")
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.putheader("Content-Length", str(3 << 20))
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (413, "TooLarge")


def test_the_description_names_every_path(served: Served) -> None:
    paths: Iterator[str] = iter(served.ask("GET", "/api/openapi.json").json["paths"])
    assert {"/v1/batches", "/api/batches/{batch_id}/events", "/api/schedules/{name}"} <= set(paths)
