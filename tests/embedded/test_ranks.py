"""Ranks without torchrun: they know each other, and the whole ends as they did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedded.ranks import with_ranks

# What a rank does is its part of DOES: an exit code, or to go on until it is asked to end.
_RANK = """
import json, os, signal, sys, time
from pathlib import Path
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TETHERED_PID")
about = {name: os.environ[name] for name in names} | {"pid": os.getpid(), "parent": os.getppid()}
does = json.loads(os.environ["DOES"])[int(os.environ["RANK"])]
signal.signal(signal.SIGTERM, (lambda *_: sys.exit(143)) if does == "goes on" else signal.SIG_IGN)
Path(os.environ["FOLDER"], os.environ["RANK"]).write_text(json.dumps(about))
if does == "goes on":
    while True:
        signal.pause()
while len(os.listdir(os.environ["FOLDER"])) < int(os.environ["WORLD_SIZE"]):
    time.sleep(0.01)
sys.exit(does)
"""


def _started(folder: Path, *does: int | str) -> subprocess.Popen[str]:
    command = with_ranks(len(does), [sys.executable, "-c", _RANK], grace_s=5, deciding=(64, 78))
    environment = os.environ | {"FOLDER": str(folder), "DOES": json.dumps(does)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("does", "code", "exits"),
    [((0, 0), 0, []), ((3, "goes on"), 3, [3, 143]), ((1, 78), 78, [1, 78])],
    ids=["well", "first failure", "deciding code"],
)
def test_the_whole_ends_as_its_ranks_did(tmp_path: Path, does: Any, code: int, exits: list[int]) -> None:
    process = _started(tmp_path, *does)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code
    assert [int(line.rpartition(" ")[2]) for line in said.splitlines()] == exits


def test_ranks_know_where_they_meet_and_end_when_the_whole_is_asked_to(tmp_path: Path, patience: Any) -> None:
    process = _started(tmp_path, "goes on", "goes on")
    files = [tmp_path / "0", tmp_path / "1"]
    patience.until(lambda: all(file.exists() and file.read_text() for file in files), 60, "both ranks")
    ranks = [json.loads(file.read_text()) for file in files]
    assert [(one["RANK"], one["LOCAL_RANK"], one["WORLD_SIZE"]) for one in ranks] == [("0", "0", "2"), ("1", "1", "2")]
    assert ranks[0]["MASTER_PORT"] == ranks[1]["MASTER_PORT"]
    assert {one["parent"] for one in ranks} == {process.pid} == {int(one["TETHERED_PID"]) for one in ranks}
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 143
    patience.gone(*(one["pid"] for one in ranks))
