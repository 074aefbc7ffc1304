"""The commands about what became of a batch, against a batch that was rendered."""

from __future__ import annotations

import csv
import io
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import Client
from pipeline.cli.main import app
from pipeline.errors import UnknownBatch
from pipeline.ledger.workers import Drain
from pipeline.records.attempt import AttemptOutcome, AttemptSpec
from pipeline.records.results import FailureCode
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage


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


def test_reasons_of_failures_are_said_with_an_example_and_what_to_do(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    stage.batch(4)

    def play(spec: AttemptSpec) -> Play:
        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            assert pod.register() is None
            for task in pod.left():
                if task.index == 3:
                    pod.commit([task])
                else:
                    pod.fail([task], FailureCode.UNSUPPORTED if task.index else FailureCode.BLACK)
            return SUCCEEDED

        return [work, SUCCEEDED]

    stage.node.play = play
    stage.work()
    stage.finalized()
    said = _run("status", "b")
    assert "b completed 1/4 images, 3 failed" in said
    assert "2 E_UNSUPPORTED, such as row-2:" in said
    assert "1 E_BLACK, such as row-1:" in said
    assert "what to do: another seed, or another number format" in said
    seen = json.loads(_run("status", "b", "--json"))
    assert (seen["succeeded"], seen["failed"], seen["cancelled"]) == (1, 3, 0)
    assert [(group["code"], group["images"]) for group in seen["failures"]] == [("E_UNSUPPORTED", 2), ("E_BLACK", 1)]
    assert seen["failures"][1]["example"]["custom_id"] == "row-1"
    followed = CliRunner().invoke(app, ["watch", "b"])
    assert "2 E_UNSUPPORTED, such as row-2:" in followed.stderr
    assert "no failure has; did you mean E_BLACK?" in _run("retry", "b", "--code", "E_BLAK")


def test_a_batch_that_waits_says_for_what(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    stage.batch(2)
    assert "waits for a render worker: none is alive" in _run("status", "b")
    stage.ledger.workers.report("render@a-1", 0)
    assert "waits for a free slot" in _run("status", "b")
    stage.ledger.workers.report("render@a-1", 1)
    assert "waits for a render worker to take its first job" in _run("status", "b")
    stage.ledger.workers.drain("*", Drain.FINISH)
    assert "all 1 are drained" in _run("status", "b")
    assert "all 1 are drained" in _run("list")


def test_a_batch_that_nobody_knows_is_an_error_of_every_method(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    batch = Client().batch("typo")
    calls: list[Callable[[], object]] = [
        *(batch.status, batch.jobs, batch.images, batch.errors, batch.failure_groups, batch.wait, batch.links),
        *(batch.retry, batch.pause, batch.unpause, batch.purge, batch.verify, batch.cancel),
        lambda: batch.download(tmp_path / "d"),
        lambda: batch.contact_sheets(tmp_path / "s.png"),
        lambda: next(batch.updates()),
    ]
    for call in calls:
        with pytest.raises(UnknownBatch):
            call()


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
