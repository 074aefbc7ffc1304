"""A command that is run with its parent dies with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Starts a command the way its first argument says, and sleeps.
_PARENT = """
import os, subprocess, sys, time
from embedded.run_with_parent import with_parent
subprocess.Popen(with_parent(["sh", "-c", "echo $$ > child; exec sleep 300"]), start_new_session=True)
time.sleep(300)
"""

_GUARDING_PARENT = """
import os, subprocess, sys, time
guard = "import os, sys; from embedded.run_with_parent import guard; sys.exit(guard(sys.argv[2:], int(sys.argv[1])))"
subprocess.Popen([sys.executable, "-P", "-c", guard, str(os.getpid()), "sh", "-c", "echo $$ > child; sleep 300"])
time.sleep(300)
"""


def _run_with_parent(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "embedded.run_with_parent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.mark.parametrize("parent", [_PARENT, _GUARDING_PARENT], ids=["kernel", "polling"])
def test_killing_the_parent_leaves_no_process(parent: str, tmp_path: Path, patience: Any) -> None:
    starter = subprocess.Popen([sys.executable, "-P", "-c", parent], cwd=tmp_path)
    child = patience.number_in(tmp_path / "child")
    starter.kill()
    starter.wait()
    patience.gone(child)


def test_on_linux_the_tether_becomes_the_command(tmp_path: Path, patience: Any) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "embedded.run_with_parent",
            "--",
            "sh",
            "-c",
            "echo $$ > child; exec sleep 300",
        ],
        cwd=tmp_path,
    )
    assert patience.number_in(tmp_path / "child") == process.pid
    process.terminate()
    assert process.wait() == -signal.SIGTERM


def test_a_command_whose_parent_died_before_it_began_never_runs(tmp_path: Path) -> None:
    # Nobody's parent is a process of this id.
    ended = _run_with_parent("--parent", str(2**22 + 1), "--", "touch", "ran", cwd=tmp_path)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "ran").exists()


def test_the_command_gets_its_arguments_and_its_exit_code_is_handed_on() -> None:
    ended = _run_with_parent("--", "sh", "-c", 'echo "$0 $1"; exit 3', "a b", "--")
    assert (ended.returncode, ended.stdout) == (3, "a b --\n")


def test_children_of_the_command_can_know_their_parent() -> None:
    ended = _run_with_parent("--", "sh", "-c", 'test "$TETHERED_PID" = "$$"')
    assert ended.returncode == 0


def test_a_command_that_does_not_exist_is_named() -> None:
    ended = _run_with_parent("--", "no-such-program")
    assert ended.returncode == 127
    assert "no-such-program" in ended.stderr


@pytest.mark.parametrize("arguments", [(), ("--",), ("sleep", "1"), ("--parent", "1")])
def test_a_wrong_call_shows_the_usage(arguments: tuple[str, ...]) -> None:
    ended = _run_with_parent(*arguments)
    assert ended.returncode == 2
    assert "usage" in ended.stderr


def test_the_polling_guard_hands_on_signals_and_dies_of_what_its_command_died_of(
    tmp_path: Path, patience: Any, is_alive: Callable[[int], bool]
) -> None:
    guard = "import sys; from embedded.run_with_parent import guard; sys.exit(guard(sys.argv[2:], int(sys.argv[1])))"
    command = ["sh", "-c", "echo $$ > child; exec sleep 300"]
    process = subprocess.Popen([sys.executable, "-P", "-c", guard, str(os.getpid()), *command], cwd=tmp_path)
    child = patience.number_in(tmp_path / "child")
    process.terminate()
    assert process.wait(timeout=300) == -signal.SIGTERM
    assert not is_alive(child)


def test_a_signal_that_comes_while_the_command_starts_is_handed_on(
    tmp_path: Path, patience: Any, is_alive: Callable[[int], bool]
) -> None:
    """Sent by the guard to itself, when the command runs and nobody has said so yet."""
    guard = (
        "import os, signal, subprocess, sys, time; from pathlib import Path; from embedded import run_with_parent\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *arguments, **options):\n"
        "        super().__init__(*arguments, **options)\n"
        "        while not Path('child').exists() or not Path('child').read_text().endswith('\\n'): time.sleep(0.01)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "run_with_parent.subprocess.Popen = Popen\n"
        "sys.exit(run_with_parent.guard(sys.argv[2:], int(sys.argv[1])))"
    )
    command = ["sh", "-c", "echo $$ > child; exec sleep 300"]
    process = subprocess.Popen([sys.executable, "-P", "-c", guard, str(os.getpid()), *command], cwd=tmp_path)
    assert process.wait(timeout=300) == -signal.SIGTERM
    assert not is_alive(patience.number_in(tmp_path / "child"))


def test_a_wrong_parent_keeps_the_guard_from_starting_anything(tmp_path: Path) -> None:
    guard = f"from embedded.run_with_parent import guard; raise SystemExit(guard(['touch', 'ran'], {2**22 + 1}))"
    ended = subprocess.run([sys.executable, "-P", "-c", guard], cwd=tmp_path, timeout=300, check=False)
    assert ended.returncode == 127
    assert not (tmp_path / "ran").exists()
