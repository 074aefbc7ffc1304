"""The pod's first process, with real ranks: it ends as they did, and hands on what asks it to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.records.attempt import SHUTDOWN_VARIABLE, Code, PodReport, torchrun

Start = Callable[..., subprocess.Popen[bytes]]

# A rank does what is written for it; others end as ranks do that follow.
_RANKS = """
import os, pathlib, signal, sys, threading, time
rank = os.environ["RANK"]
{body}
"""


# The first ends when the second is dead, which torchrun has noticed then or not: else it might end the second itself.
_BOTH = """
known = pathlib.Path("pid")
if rank == "1":
    pathlib.Path("new").write_text(str(os.getpid()))
    os.rename("new", known)
    os._exit(78)
while not known.exists():
    time.sleep(0.01)
status = pathlib.Path("/proc", known.read_text(), "stat")
while status.exists() and " Z " not in status.read_text():
    time.sleep(0.01)
sys.exit(1)
"""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Runs two ranks of a small script by the pod's own command."""

    def started(body: str, **environment: str) -> subprocess.Popen[bytes]:
        (tmp_path / "ranks.py").write_text(_RANKS.format(body=body))
        command = [*torchrun(sys.executable, 2)[:-2], str(tmp_path / "ranks.py")]
        return subprocess.Popen(command, cwd=tmp_path, env=_environment(environment), stderr=subprocess.PIPE)

    return started


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[3])
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root} | dict(more)


def _ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, words = process.communicate(timeout=240)
    return process.returncode, words.decode()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", 0),
        ("sys.exit(1)", 1),
        ("sys.exit(64)", 64),
        (_BOTH, 78),  # the one that knows why
        ("sys.exit(3) if rank == '1' else time.sleep(300)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL) if rank == '0' else time.sleep(300)", 128 + signal.SIGKILL),
    ],
)
def test_the_ranks_exit_code_arrives(start: Start, body: str, code: int) -> None:
    found, words = _ended(start(body))
    assert found == code, words
    if code > 128:
        assert "exitcode  : -9" in words  # what classification reads in the log


def _wait_for(folder: Path, names: set[str], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not all((folder / name).exists() for name in names):
        assert process.poll() is None, _ended(process)
        assert time.monotonic() < deadline, names
        time.sleep(0.05)


def test_sigterm_reaches_every_rank_and_is_no_success(start: Start, tmp_path: Path) -> None:
    process = start(
        """
def end(*_):
    pathlib.Path("asked-" + rank).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path("ready-" + rank).touch()
time.sleep(300)
"""
    )
    _wait_for(tmp_path, {"ready-0", "ready-1"}, process)
    process.send_signal(signal.SIGTERM)
    code, words = _ended(process)
    assert code == 128 + signal.SIGTERM, words
    assert {path.name for path in tmp_path.glob("asked-*")} == {"asked-0", "asked-1"}


def test_ranks_that_do_not_listen_are_killed_after_the_shutdown_timeout(start: Start, tmp_path: Path) -> None:
    process = start(
        """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("ready-" + rank).write_text(str(os.getpid()))
time.sleep(300)
""",
        **{SHUTDOWN_VARIABLE: "1"},
    )
    _wait_for(tmp_path, {"ready-0", "ready-1"}, process)
    process.send_signal(signal.SIGTERM)
    code, words = _ended(process)  # the ranks would sleep for longer than this waits
    assert code == 128 + signal.SIGTERM, words
    assert not any(Path(f"/proc/{path.read_text()}").exists() for path in tmp_path.glob("ready-*"))


@pytest.mark.parametrize(
    ("environment", "code", "words"),
    [
        ({}, 78, "TESSERA_S3_BUCKET"),
        ({"TESSERA_S3_BUCKET": "renders"}, 64, "TESSERA_ATTEMPT is not set"),
        ({"TESSERA_S3_BUCKET": "renders", "TESSERA_ATTEMPT": '{"newer": 1}'}, 64, "TESSERA_ATTEMPT cannot be read"),
    ],
)
def test_what_no_retry_mends_has_an_exit_code_of_its_own(
    tmp_path: Path, environment: dict[str, str], code: int, words: str
) -> None:
    report = tmp_path / "termination-log"
    plain = {"TESSERA_TERMINATION_LOG": str(report), "TESSERA_REDIS_URL": "redis://127.0.0.1:1/0"}
    command = torchrun(sys.executable, 2)
    done = subprocess.run(
        command, cwd=tmp_path, env=_environment(plain | environment), capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    written = PodReport.model_validate_json(report.read_text())
    assert written.code is Code.CONFIG_ERROR
    assert words in written.message
