"""What HTTP itself asks of answers: HEAD, conditions, parts of a version."""

from __future__ import annotations

import contextlib
import http.client
import re
import urllib.parse
from typing import Any

import pytest

from tests.pipeline.service.served import Served


@pytest.fixture(scope="module")
def batch(served: Served) -> str:
    """A batch of one image that is there."""
    served.ask("POST", "/api/batches", {"prompts": ["a hill"], "options": {"size": "64x128"}, "batch_id": "made"})
    served.ended("made")
    return "made"


def _paths(served: Served, batch: str) -> list[str]:
    """Every path that is read."""
    found = served.ask("GET", "/api/openapi.json").json["paths"]
    names = {"batch_id": batch, "image_id": "0000000-000", "name": "results.jsonl"}
    paths = [
        re.sub(r"{(\w+)}", lambda name: names.get(name[1], "none"), path) for path in found if "get" in found[path]
    ]
    return [*paths, f"/api/batches/{batch}/objects?folder=images/", "/healthz", "/readyz", "/", "/login", "/api/none"]


def test_head_is_get_without_a_body_wherever_there_is_get(served: Served, batch: str) -> None:
    """On one connection: a body that came all the same would be in the way of the next answer."""
    address = urllib.parse.urlsplit(served.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
    headers = {"Authorization": f"Bearer {served.token}"}

    def asked(method: str, path: str) -> tuple[Any, ...]:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        assert (method == "GET") or not answer.read()
        answer.read()
        return answer.status, answer.headers["Content-Type"], answer.headers["ETag"], answer.headers["Content-Length"]

    with contextlib.closing(connection):
        paths = _paths(served, batch)
        assert f"/api/batches/{batch}/images/0000000-000/file" in paths
        for path in paths:
            assert asked("HEAD", path) == asked("GET", path), path
        assert asked("HEAD", "/api/validate")[0] == 405
        assert asked("HEAD", f"/api/batches/{batch}/images/0000000-000/file")[0] == 200


def test_head_of_what_goes_on_and_on_ends(served: Served) -> None:
    with served.held():
        served.ask("POST", "/api/batches", {"prompts": ["p"], "options": {"size": "64x64"}, "batch_id": "going"})
        answer = served.ask("HEAD", "/api/batches/going/events")
        assert (answer.status, answer.headers["Content-Type"][:17]) == (200, "text/event-stream")


def test_head_needs_what_get_needs(served: Served, batch: str) -> None:
    assert served.ask("HEAD", f"/api/batches/{batch}", token=None).status == 401
    assert served.ask("HEAD", f"/api/batches/{batch}", token=served.new_token("two")).status == 404


@pytest.mark.parametrize("name", ["images/0000000-000/file", "images/0000000-000/thumbnail", "objects/results.jsonl"])
def test_a_version_that_the_client_has_is_not_sent_again(served: Served, batch: str, name: str) -> None:
    path = f"/api/batches/{batch}/{name}"
    whole = served.ask("GET", path)
    etag = whole.headers["ETag"]
    for had in (etag, f"W/{etag}", f'"another", {etag}', "*"):
        answer = served.ask("GET", path, If_None_Match=had, Range="bytes=0-1")
        assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", etag), had
        assert answer.headers["Cache-Control"] == whole.headers["Cache-Control"]
    other = served.ask("GET", path, If_None_Match='"another"')
    assert (other.status, other.body) == (200, whole.body)
    assert served.ask("GET", f"/api/batches/{batch}/objects/gallery/none", If_None_Match="*").status == 404


@pytest.mark.parametrize("name", ["images/0000000-000/file", "images/0000000-000/thumbnail", "objects/results.jsonl"])
def test_a_part_is_of_the_version_that_the_client_has_or_it_is_the_whole(served: Served, batch: str, name: str) -> None:
    path = f"/api/batches/{batch}/{name}"
    whole = served.ask("GET", path)
    etag, size = whole.headers["ETag"], len(whole.body)
    part = served.ask("GET", path, Range="bytes=1-3", If_Range=etag)
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, whole.body[1:4], f"bytes 1-3/{size}")
    for other in ('"another"', f"W/{etag}", "Sun, 06 Nov 1994 08:49:37 GMT"):
        for wanted in ("bytes=1-3", "bytes=99999999-"):
            answer = served.ask("GET", path, Range=wanted, If_Range=other)
            assert (answer.status, answer.body) == (200, whole.body), other
    assert served.ask("GET", path, Range="bytes=99999999-", If_Range=etag).status == 416
