"""Run a command that dies with its parent process: `python -P -m embedded.run_with_parent --parent PID -- CMD ARGS...`.

On Linux this program sets the parent-death signal and becomes the command, so that no process stays behind and the
command's process id is the one that was started. Elsewhere it stays as a parent that watches its own parent; there,
killing this program itself with SIGKILL leaves the command running.

The parent-death signal fires when the *thread* that forked ends: start such commands from a main thread.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from pipeline.process.lifeline import PARENT_PID_VARIABLE, die_with_parent

_POLL_S = 0.2
_CANNOT_RUN = 127  # what a shell returns for a command that it cannot run


def with_parent(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` so that it dies with the calling process."""
    return [
        sys.executable,
        "-P",
        "-m",
        "embedded.run_with_parent",
        "--parent",
        str(os.getpid()),
        "--",
        *command,
    ]


def become(command: Sequence[str], parent: int) -> None:
    """Replace this process by `command`, which the kernel kills when `parent` ends. Linux only; does not return."""
    die_with_parent(parent)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would hand that down
    os.environ[PARENT_PID_VARIABLE] = str(os.getpid())
    os.execvp(command[0], list(command))  # noqa: S606 - no shell is wanted


def guard(command: Sequence[str], parent: int) -> int:
    """Run `command` in a group of its own until it or `parent` ends; pass on signals that ask it to stop.

    Returns the exit code. If a signal ended the command, this process ends by the same signal.
    """
    if os.getppid() != parent:
        return _CANNOT_RUN
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # that came before there was anything to hand them on to

    def hand_on(number: int, _frame: FrameType | None) -> None:
        if child is None:
            early.append(number)
            return
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(child.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, hand_on)
    child = subprocess.Popen(command, start_new_session=True, close_fds=False)  # also what was handed down to us
    for came in early:
        hand_on(came, None)
    while (code := child.poll()) is None:
        if os.getppid() != parent:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return _CANNOT_RUN
        time.sleep(_POLL_S)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def main(arguments: Sequence[str]) -> int:
    """Entry point; on Linux it returns only if the command cannot be run."""
    match list(arguments):
        case ["--parent", parent, "--", *command] if command:
            expected = int(parent)
        case ["--", *command] if command:
            expected = os.getppid()
        case _:
            sys.stderr.write("usage: python -P -m embedded.run_with_parent [--parent PID] -- COMMAND [ARGUMENT...]\n")
            return 2
    try:
        if sys.platform != "linux":
            return guard(command, expected)
        become(command, expected)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
    return _CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
