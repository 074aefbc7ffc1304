"""A child process that dies with this one: start it, ask it to end, read the end of its log."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded.run_with_parent import with_parent
from pipeline.errors import ServiceError
from pipeline.process import flock
from pipeline.process.log_tail import log_tail
from pipeline.process.private import UMASK, open_log

_LOG_LIMIT_BYTES = 16 * 2**20
_PREDECESSOR_S = 5.0


@dataclass(frozen=True)
class Program:
    """What to run, and where its output goes."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    lock: Path | None = None  # held while the process lives, so that two servers never share their data
    descriptors: tuple[int, ...] = ()  # of ours, which it has too


class Child:
    """A `Program` and its process. Start it from the main thread: its parent-death signal is bound to the thread."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int | None:
        """Process id of the program itself on Linux, of `run_with_parent` elsewhere."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the program, or start it again if it ended. Waits if a predecessor still holds its lock."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{self.name} must be started from the main thread")
        program = self.program
        held: list[int] = []
        if program.lock is not None:
            descriptor = flock.acquire(program.lock, _PREDECESSOR_S)
            if descriptor is None:
                raise ServiceError(f"another {self.name} works on {program.folder}: {program.lock} is held")
            held.append(descriptor)
        if program.log.exists() and program.log.stat().st_size > _LOG_LIMIT_BYTES:
            program.log.replace(program.log.with_name(program.log.name + ".1"))
        try:
            with open_log(program.log) as log:
                self._process = subprocess.Popen(
                    with_parent(program.command),
                    env=dict(program.environment),
                    cwd=program.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a terminal's Ctrl-C must reach only us: we stop the children in order
                    pass_fds=(*held, *program.descriptors),
                    umask=UMASK,
                )
        finally:
            for descriptor in held:
                os.close(descriptor)
        self.started_at = time.monotonic()

    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.poll() if self._process else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def log_excerpt(self) -> str:
        """The log's last lines and where to read the rest."""
        return f"its log {self.program.log} ends with:\n{log_tail(self.program.log)}"


def stop_all(children: Iterable[Child], grace_s: float) -> list[Child]:
    """Ask all of them to end, wait, kill those left after `grace_s`. Returns those that had to be killed."""
    started = [child for child in children if child.pid is not None]
    for child in started:
        child.send(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(child.exit_code() is None for child in started) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed = [child for child in started if child.exit_code() is None]
    for child in killed:
        child.send(signal.SIGKILL)
    while any(child.exit_code() is None for child in killed):
        time.sleep(0.02)
    return killed
