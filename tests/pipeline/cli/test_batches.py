"""Batches on the command line: named by a beginning or as `last`, listed by filters, completed in a shell."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.cli import complete
from pipeline.cli.main import _run, app
from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger
from pipeline.operations.cancel import request_cancel
from pipeline.operations.submit import Submission, accept, checked_options
from pipeline.promptset.fields.shorthand import scheduler
from tests.factories import deployment

Tessera = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tessera(
    settings: Settings,
    ledger: Ledger,
    artifacts: Artifacts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Tessera:
    """Run `tessera ARGUMENTS` where three batches are; returns exit code, standard output and standard error."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    ledger.announce(deployment())
    for batch_id, tenant, labels in (
        ("atlas-1", "default", {"project": "atlas", "round": "1"}),
        ("atlas-2", "acme", {"project": "atlas", "round": "2"}),
        ("birds", "acme", {}),
    ):
        accept(Submission(["a"], checked_options({}), batch_id, tenant, labels=labels), ledger, artifacts)
    request_cancel(ledger, "birds")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = _run(list(arguments))
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


def _ids(answer: tuple[int, str, str]) -> list[str]:
    assert answer[0] == 0, answer[2]
    return [json.loads(line)["id"] for line in answer[1].splitlines()]


def test_a_batch_is_named_by_what_only_it_has(tessera: Tessera) -> None:
    for named, meant in {"bir": "birds", "birds": "birds", "last": "birds", "atlas-2": "atlas-2"}.items():
        code, said, complaint = tessera("status", named, "--json")
        assert (code, json.loads(said)["id"]) == (0, meant), complaint
    for named, words in {
        "atlas": "2 batches begin with 'atlas': atlas-2, atlas-1; say which",
        "fish": "no batch 'fish'",
        "../x": "no batch '../x'",
    }.items():
        code, _said, complaint = tessera("status", named)
        assert (code, words in complaint) == (2, True), complaint


def test_several_batches_and_those_of_options_are_named_likewise(tessera: Tessera) -> None:
    code, said, complaint = tessera("purge", "last", "bir", "--dry-run", "--json")
    assert (code, json.loads(said or "{}").get("batches")) == (0, ["birds"]), complaint
    for command in (["purge", "--dry-run"], ["webhook", "deliveries", "--batch"]):
        code, _said, complaint = tessera(*command, "atlas")
        assert (code, "2 batches begin with 'atlas'" in complaint) == (2, True), complaint
        code, _said, complaint = tessera(*command, "bir")
        assert code == 0, complaint


FILTERS: list[tuple[list[str], list[str]]] = [
    ([], ["birds", "atlas-2", "atlas-1"]),
    (["--limit", "2"], ["birds", "atlas-2"]),
    (["--tenant", "acme"], ["birds", "atlas-2"]),
    (["--tenant", "acme", "--limit", "1"], ["birds"]),
    (["--label", "project=atlas"], ["atlas-2", "atlas-1"]),
    (["--label", "project=atlas", "--label", "round=1"], ["atlas-1"]),
    (["--state", "cancelling"], ["birds"]),
    (["--state", "cancelling", "--state", "validating"], ["birds", "atlas-2", "atlas-1"]),
    (["--schedule", "nightly"], []),
    (["--since", "1h"], ["birds", "atlas-2", "atlas-1"]),
    (["--since", "2999-01-01"], []),
    (["--until", "2999-01-01T12:00+02:00"], ["birds", "atlas-2", "atlas-1"]),
    (["--until", "1h"], []),
]


def test_a_list_has_what_its_filters_name(tessera: Tessera, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, ids in FILTERS:
        assert _ids(tessera("list", "--json", *options)) == ids, options
    monkeypatch.setattr("pipeline.operations.listing._PAGE", 1)
    assert _ids(tessera("list", "--json", "--label", "round=1")) == ["atlas-1"]
    for arguments, words in (
        (["--since", "yesterday"], "--since 'yesterday' found; a date (2026-11-27)"),
        (["--label", "atlas"], "--label 'atlas' found; NAME=VALUE wanted"),
        (["--label", "a b=1"], "label 'a b'"),
        (["--state", "done"], "done"),
    ):
        code, _said, complaint = tessera("list", *arguments)
        assert (code, words in complaint) == (2, True), complaint


def test_a_shell_completes_ids_and_values(tessera: Tessera, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tessera("list")[0] == 0
    assert complete.batch_ids("atl") == ["atlas-2", "atlas-1"]
    assert complete.batch_ids("l") == ["last"]
    assert complete.job_refs("bir") == ["birds/0"]
    assert complete.models("") == list(deployment().models)
    assert complete.failure_codes("E_O") == ["E_OOM"]
    monkeypatch.setenv("TESSERA_REDIS_URL", "redis://127.0.0.1:1/0")
    assert complete.batch_ids("l") == ["last"]
    assert complete.models("") == []


@pytest.mark.parametrize("typed", ["DPM++_2M_K", "dpm++_2m_k", "dpm++", "e"])
def test_what_a_shell_completes_of_a_sampler_is_one_word_and_means_it(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TESSERA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"tessera render --scheduler {typed}")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit):
        app([], prog_name="tessera")
    found = capsys.readouterr().out.splitlines()
    assert found
    for name in found:
        assert name.startswith(typed)
        assert " " not in name
        assert scheduler(name)
