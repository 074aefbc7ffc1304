"""Links that work without credentials for a while, and lists of them that harm no spreadsheet."""

from __future__ import annotations

import csv
import io
import logging
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.commit import commit_image
from pipeline.errors import RequestError
from pipeline.outputs.links import Link, csv_lines, links
from pipeline.process.redact import redacted
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult
from pipeline.records.shards import ImageTask
from tests.factories import at, file_of, image_result, resolved_row

OBJECTS = BatchObjects("b")


def _committed(artifacts: Artifacts, row: int = 0) -> ImageResult:
    result = image_result(ImageTask(resolved_row(row), 0))
    return commit_image(artifacts, OBJECTS, result, file_of(result, row))


def _fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # of our own endpoint
        body: bytes = answer.read()
    return body


def test_a_link_fetches_its_image_without_credentials_and_nothing_else(artifacts: Artifacts) -> None:
    results = [_committed(artifacts, row) for row in range(2)]
    found = list(links(artifacts, results, timedelta(minutes=5)))
    assert [_fetched(link.url) for link in found] == [artifacts.get(result.key) for result in results]
    assert [(link.custom_id, link.seed) for link in found] == [("row-1", 100), ("row-2", 101)]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        _fetched(found[0].url.replace("0000000-000.png", "0000001-000.png"))


def test_a_link_ends_when_it_says(artifacts: Artifacts) -> None:
    [link] = links(artifacts, [_committed(artifacts)], timedelta(hours=2))
    assert abs(link.expires_at - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    assert parse_qs(urlsplit(link.url).query)["X-Amz-Expires"] == ["7200"]


@pytest.mark.parametrize("life", [timedelta(0), timedelta(days=8)])
def test_a_life_that_s3_does_not_give_is_refused(artifacts: Artifacts, life: timedelta) -> None:
    with pytest.raises(RequestError, match="from 1 second to 7 days possible"):
        links(artifacts, [], life)


def test_a_link_stands_in_no_log_and_no_repr(artifacts: Artifacts, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        [link] = links(artifacts, [_committed(artifacts)])
    signature = parse_qs(urlsplit(link.url).query)["X-Amz-Signature"][0]
    assert signature not in caplog.text
    assert "X-Amz" not in repr(link)
    assert signature not in redacted(f"GET {link.url} failed")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "  =1", "\n=1", "\u00a0=1", "\uff1d1"])
def test_no_cell_of_a_csv_starts_a_formula_and_every_other_one_reads_back(name: str) -> None:
    made = [Link(one, "0000000-000", 7, at(), "https://s3/x?a=1") for one in (name, 'a,"b"\nc')]
    header, first, second = csv.reader(io.StringIO("".join(csv_lines(made)), newline=""))
    assert header == ["custom_id", "image_id", "seed", "expires_at", "url"]
    assert first[0] == f"'{name}"
    assert second == ['a,"b"\nc', "0000000-000", "7", at().isoformat(), "https://s3/x?a=1"]
