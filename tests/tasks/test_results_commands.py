"""The commands about what became of a batch, against a batch that was rendered."""

from __future__ import annotations

import csv
import io
import json
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from tests.tasks.stage import Stage


@pytest.fixture
def finished(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    for name, value in stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    stage.batch(3)
    stage.work()
    stage.finalized()
    return stage


def _run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    return done.stdout + (str(done.exception) if done.exception else "")


def test_links_are_urls_json_lines_or_csv(finished: Stage) -> None:
    urls = _run("links", "b").splitlines()
    bodies = [urllib.request.urlopen(url, timeout=30).read() for url in urls]  # noqa: S310  # of our own endpoint
    keys = [line["key"] for line in finished.lines("results.jsonl")]
    assert bodies == [finished.artifacts.get(key) for key in keys]
    lines = [json.loads(line) for line in _run("links", "b", "--jsonl", "--expires", "2d").splitlines()]
    assert [line["custom_id"] for line in lines] == [line["custom_id"] for line in finished.lines("results.jsonl")]
    assert all("X-Amz-Expires=172800" in line["url"] for line in lines)
    rows = list(csv.DictReader(io.StringIO(_run("links", "b", "--csv"), newline="")))
    assert [row["image_id"] for row in rows] == [line["image_id"] for line in lines]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["links", "b", "--csv", "--jsonl"], "one of them wanted"),
        (["links", "b", "--expires", "8d"], "from 1 second to 7 days possible"),
        (["links", "never"], "no batch 'never'"),
        (["contact-sheet", "never"], "no batch 'never'"),
        (["contact-sheet", "b", "-o", "sheet.tiff"], "a name that ends in"),
    ],
)
def test_a_call_that_cannot_be_right_says_why(finished: Stage, arguments: list[str], message: str) -> None:
    assert finished.ledger.batches.known("b")
    assert message in _run(*arguments)


def test_a_contact_sheet_is_as_many_pages_as_it_takes(finished: Stage, tmp_path: Path) -> None:
    output = tmp_path / "sheet.webp"
    said = json.loads(_run("contact-sheet", "b", "-o", str(output), "--columns", "1", "--rows", "2", "--json"))
    assert said["pages"] == [str(output), str(tmp_path / "sheet-002.webp")]
    assert finished.ledger.batches.known("b")
    assert all(Path(page).stat().st_size for page in said["pages"])


def test_watching_as_json_ends_with_the_batch(finished: Stage) -> None:
    [event] = [json.loads(line) for line in _run("watch", "b", "--json").splitlines()]
    assert (event["state"], event["done"], event["eta_s"], event["under_way"]) == ("completed", 3, None, [])
    assert finished.ledger.batches.known("b")
