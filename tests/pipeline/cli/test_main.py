"""How the program ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import entry
from pipeline.cli.commands import render
from pipeline.cli.main import _run


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_is_a_word_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(render, "_rendered", _interrupted)
    assert _run(["render", "a hill"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


def test_ctrl_c_ends_the_process_whatever_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr("pipeline.cli.main.main", _interrupted)  # while it is imported, say
    entry.main([])
    assert ended == [130]
    assert capsys.readouterr().err == "interrupted\n"
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="2"):
        entry.main(["no-such-command"])


def test_ctrl_c_while_a_class_is_made_is_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def imported(*_: object) -> None:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()  # as Python 3.11 has it

    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr("pipeline.cli.main.main", imported)
    entry.main([])
    assert (ended, capsys.readouterr().err) == ([130], "interrupted\n")


def test_an_error_of_this_machine_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "renders/hill.png")

    monkeypatch.setattr(render, "_rendered", full)
    assert _run(["render", "a hill"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: renders/hill.png: No space left on device"


def _program(*arguments: str, out: int, **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=os.environ | environ, check=False)


def test_output_that_cannot_be_written_is_a_line() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = _program("--version", out=full.fileno())
    assert ended.returncode == 1
    assert ended.stderr == b"error: standard output: No space left on device\n"


def test_letters_that_a_locale_lacks_stand_as_numbers() -> None:
    ended = _program("submit", "--help", out=subprocess.PIPE, PYTHONIOENCODING="ascii", COLUMNS="80")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\\u2026" in ended.stdout


@pytest.mark.parametrize("command", ["render", "watch", "submit"])
def test_a_time_below_none_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run([command, "x", "--timeout", "-1"]) == 2
    assert "--timeout" in capsys.readouterr().err
