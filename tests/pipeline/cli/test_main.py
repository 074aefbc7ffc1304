"""How the program ends."""

from __future__ import annotations

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
