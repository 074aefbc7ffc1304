"""Start the ranks of an engine without torchrun, whose import of torch alone takes two seconds.

`python -P -m embedded.ranks RANKS GRACE_S CODE,CODE -- COMMAND`. They find each other as torchrun's ranks do, and die
with this process. It ends as they did: with 0, or as the first that failed, or as one that failed with one of the
codes. Imports only the standard library: somebody waits.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from pipeline.process.lifeline import PARENT_PID_VARIABLE

_POLL_S = 0.05


def with_ranks(ranks: int, command: Sequence[str], *, grace_s: float, deciding: Sequence[int]) -> list[str]:
    """The command line that runs `command` so often, each time as another rank.

    They get `grace_s` to end when one has failed; an exit code among `deciding` counts more than that of the first.
    """
    codes = ",".join(map(str, deciding))
    return [sys.executable, "-P", "-m", "embedded.ranks", str(ranks), str(grace_s), codes, "--", *command]


def main(arguments: Sequence[str]) -> int:
    """Entry point."""
    count, grace_s, deciding = int(arguments[0]), float(arguments[1]), [int(code) for code in arguments[2].split(",")]
    command = arguments[4:]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
    common = os.environ | meeting | {"LOCAL_WORLD_SIZE": str(count), PARENT_PID_VARIABLE: str(os.getpid())}
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    ranks = [
        subprocess.Popen(command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)
    ]
    failed: list[int] = []
    kill_at: float | None = None
    while None in [one.poll() for one in ranks]:
        failed += [code for one in ranks if (code := one.returncode) and code not in failed]
        if (failed or asked) and kill_at is None:
            kill_at = time.monotonic() + grace_s
            _send(ranks, signal.SIGTERM)
        elif kill_at is not None and time.monotonic() > kill_at:
            _send(ranks, signal.SIGKILL)
        time.sleep(_POLL_S)
    for rank, one in enumerate(ranks):
        if one.returncode:
            sys.stderr.write(f"rank {rank} exitcode: {one.returncode}\n")  # as torchrun's summary has it
    failed += [one.returncode for one in ranks if one.returncode]
    if not failed:
        return 0
    code = next((code for code in failed if code in deciding), failed[0])
    return code if code >= 0 else 128 - code


def _send(ranks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for one in ranks:
        if one.poll() is None:
            one.send_signal(number)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
