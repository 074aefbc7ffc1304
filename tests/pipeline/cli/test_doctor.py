"""`tessera doctor` cuts nothing that somebody has to copy."""

from __future__ import annotations

import json
import sys

import pytest

from pipeline.cli.commands import doctor
from pipeline.cli.main import _run
from pipeline.client.doctor import Finding, Verdict

FOUND = [
    Finding(Verdict.OK, "local stack", f"up, logs in /home/somebody/{'x' * 120}/logs"),
    Finding(Verdict.WRONG, "S3", f"https://{'s3.' * 40}example.com", "set TESSERA_S3_ENDPOINT to [one] that answers"),
]


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda **_: FOUND)


def test_a_finding_is_a_line_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["doctor"]) == 1
    _titles, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(FOUND)
    for line, finding in zip(lines, FOUND, strict=True):
        assert all(text in line for text in (finding.verdict.value, finding.what, finding.found, finding.advice))


def test_a_terminal_shows_all_of_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert _run(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert (shown.count("x"), "…" in shown) == (FOUND[0].found.count("x") + FOUND[1].found.count("x"), False)


def test_findings_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [finding.as_dict() for finding in FOUND]
