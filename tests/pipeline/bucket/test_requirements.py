"""What a store must have is tried out, said by name, and survived where that can be."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, cast

import botocore.auth
import pytest
import structlog
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from pipeline.bucket import s3
from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.requirements import CLOCK
from pipeline.client.connect import Connection
from pipeline.client.doctor import Verdict, examine_connection
from pipeline.deployment.settings import Settings
from pipeline.errors import ClockSkewed, StoreRefused, StoreUnavailable
from pipeline.ledger import Ledger

Unmet = Callable[[], dict[str, str]]


class _Raw(io.BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()


def _answer(status: int, code: str) -> Callable[..., Any]:
    """What a store sends instead of an answer."""
    body = f"<Error><Code>{code}</Code></Error>".encode()

    def send(request: Any, **_: Any) -> Any:
        return AWSResponse(request.url, status, HTTPHeaders.from_dict({"content-type": "application/xml"}), _Raw(body))

    return send


def _hook(artifacts: Artifacts, event: str, do: Callable[..., Any]) -> None:
    for client in (artifacts._client, artifacts._impatient):
        client.meta.events.register(event, do)


@pytest.fixture
def unmet(artifacts: Artifacts) -> Unmet:
    return lambda: {each.name: each.found for each in artifacts.requirements() if not each.met}


def test_the_embedded_store_has_all_of_them_and_nothing_is_left_there(artifacts: Artifacts, unmet: Unmet) -> None:
    assert unmet() == {}
    assert list(artifacts.list("")) == []


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_condition_that_is_ignored_is_said(artifacts: Artifacts, unmet: Unmet, header: str) -> None:
    def ignore(params: Any, **_: Any) -> None:
        params["headers"].pop(header, None)

    _hook(artifacts, "before-call.s3.PutObject", ignore)
    (name,) = unmet()
    assert name.startswith(f"S3 conditional PUT, {header}")
    if header == "If-None-Match":
        with pytest.raises(StoreUnavailable, match="overwrote an object"):
            artifacts.check()


def test_reads_and_lists_that_are_late_are_said(artifacts: Artifacts, unmet: Unmet) -> None:
    def late(params: Any, **_: Any) -> None:
        params["Key" if "Key" in params else "Prefix"] += "-not-there-yet"

    _hook(artifacts, "before-parameter-build.s3.GetObject", late)
    assert unmet() == {"S3 reads after writes": "late for an object that was put"}
    _hook(artifacts, "before-parameter-build.s3.ListObjectsV2", late)
    assert set(unmet()) == {"S3 reads after writes", "S3 lists after writes"}


@pytest.mark.parametrize(
    ("status", "code"), [(400, "MissingContentMD5"), (400, "InvalidRequest"), (501, "NotImplemented"), (405, "x")]
)
def test_a_store_without_delete_objects_is_told_to_delete_one_by_one(
    artifacts: Artifacts, unmet: Unmet, status: int, code: str
) -> None:
    _hook(artifacts, "before-send.s3.DeleteObjects", _answer(status, code))
    assert unmet() == {"S3 DeleteObjects": f"{code} in answer"}
    with structlog.testing.capture_logs() as logs:
        for name in ("a", "b"):
            artifacts.put(name, b"x", content_type="text/plain")
            artifacts.delete_all([name, "absent"])
    assert list(artifacts.list("")) == []
    assert len(logs) == 1


def test_a_refusal_to_delete_is_not_tried_one_by_one(artifacts: Artifacts) -> None:
    _hook(artifacts, "before-send.s3.DeleteObjects", _answer(403, "AccessDenied"))
    with pytest.raises(StoreRefused, match="refuses our credentials"):
        artifacts.delete_all(["a"])


@pytest.mark.parametrize(("minutes", "words"), [(20, "20 minutes ahead"), (-60, "60 minutes behind")])
def test_a_clock_that_is_off_is_named_and_no_key(
    settings: Settings, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, minutes: int, words: str
) -> None:
    off, auth, local = timedelta(minutes=minutes), cast("Any", botocore.auth), s3.local_time
    signed = auth.get_current_datetime
    monkeypatch.setattr(auth, "get_current_datetime", lambda *args, **kw: signed(*args, **kw) + off)
    monkeypatch.setattr(s3, "local_time", lambda: local() + off)
    for ask in (artifacts.check, partial(artifacts.head, "x"), partial(artifacts.put, "x", b"", content_type="a/b")):
        with pytest.raises(ClockSkewed, match=words) as error:
            ask()
        assert "AWS_SECRET" not in str(error.value)
    found = {one.what: one for one in examine_connection(Connection(settings, Ledger(settings), artifacts))}
    assert found[CLOCK].verdict is Verdict.WRONG
    assert ("ours is +1" if minutes > 0 else "ours is -3") in found[CLOCK].found
    assert "15 minutes" in found[CLOCK].advice


def test_wrong_credentials_are_still_called_that(settings: Settings) -> None:
    stranger = Artifacts(settings, s3.Credentials("nobody", "wrong"))
    with pytest.raises(StoreRefused, match="refuses our credentials") as error:
        stranger.check()
    assert not isinstance(error.value, ClockSkewed)


def test_doctor_has_a_line_for_each(settings: Settings, artifacts: Artifacts) -> None:
    found = {one.what: one.verdict for one in examine_connection(Connection(settings, Ledger(settings), artifacts))}
    for what in (CLOCK, "clock against Redis", "S3 reads after writes", "S3 lists after writes", "S3 DeleteObjects"):
        assert found[what] is Verdict.OK
