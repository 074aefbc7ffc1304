"""The end of a log says why there is nothing in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.process.log_tail import log_tail


def test_a_log_that_is_empty_says_so_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "stack.log"
    assert log_tail(log) == "(no log)"
    log.touch()
    assert log_tail(log) == "(empty log)"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert log_tail(log) == f"(empty log: no space is left at {tmp_path})"
    log.write_text("one\ntwo\n")
    assert log_tail(log, 1) == "two"
