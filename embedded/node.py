"""The local node, which does a kubelet's work: it runs attempts that workers ask for, and records how they ended.

Workers reach it by files (see attempts.py), so it needs no port and does not depend on them. Its attempts die with it;
the next node records as lost those that are still recorded as running.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import structlog

from embedded.attempts import AttemptFolder, AttemptStatus
from embedded.engines import AttemptFiles, Engine, Engines
from embedded.processes.marked import kill_marked
from pipeline.client.warm_engines import engines_folder
from pipeline.deployment.settings import MachineSettings, load_part
from pipeline.errors import RecordTooNew, RecordUnreadable
from pipeline.names import POD_UID_VARIABLE
from pipeline.process import flock
from pipeline.process.log_tail import log_tail
from pipeline.process.logs import configure_logging
from pipeline.records.attempt import (
    REPORT_LIMIT_BYTES,
    AttemptPhase,
    AttemptSpec,
    Code,
    PodReport,
    torchrun,
)

_MESSAGE_FILE = "termination-log"

_SCAN_S = 0.1
_KILL_S = 2.0
_PREDECESSOR_S = 5.0

log = structlog.get_logger("embedded.node")


def render(spec: AttemptSpec) -> list[str]:
    """The command of a pod, the same as in a container."""
    return torchrun(sys.executable, spec.gpus)


@dataclass
class _Running:
    engine: Engine
    status: AttemptStatus
    deadline: float


class Node:
    """All attempts of this node. `run` serves them until stopped; call it in the main thread."""

    def __init__(
        self,
        data_dir: Path,
        command: Callable[[AttemptSpec], Sequence[str]] = render,
        *,
        grace_s: float = 5.0,
        warm_s: float = 0.0,
    ) -> None:
        self._attempts = AttemptFolder(data_dir)
        self._scratch = self._attempts.root / "scratch"
        self._logs = data_dir / "logs" / "attempts"
        for folder in (self._scratch, self._logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._engines = Engines(engines_folder(data_dir), command, grace_s=grace_s, warm_s=warm_s)
        self._grace_s = grace_s
        self._running: dict[str, _Running] = {}
        self._ended: set[str] = set()
        self._stopping = False

    def stop(self) -> None:
        """Ask `run` to end all attempts and return; may be called from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Serve until stopped. Raises TimeoutError if another node serves the same folder."""
        lock = flock.acquire(self._attempts.root / "node.lock", _PREDECESSOR_S)
        if lock is None:
            raise TimeoutError(f"another node serves {self._attempts.root}")
        try:
            self._engines.clear()
            self._record_lost_attempts()
            log.info("node started", folder=str(self._attempts.root))
            while not self._stopping:
                try:
                    self._tick()
                except OSError:  # a full disk, for example: attempts go on, and their ends are recorded later
                    log.exception("look at the attempts failed")
                time.sleep(_SCAN_S)
            self._end_all()
        finally:
            os.close(lock)

    def _record_lost_attempts(self) -> None:
        for name in self._attempts.listing().specs:
            try:
                status = self._attempts.status(name)
            except RecordUnreadable as error:
                log.error("status of an attempt cannot be read", attempt=name, reason=str(error))
                status = AttemptStatus(
                    uid=secrets.token_hex(8), phase=AttemptPhase.RUNNING, started_at=datetime.now(UTC)
                )
            if status is not None and status.phase is AttemptPhase.RUNNING:
                self._record_lost(name, status)

    def _record_lost(self, name: str, status: AttemptStatus) -> None:
        if left := kill_marked(POD_UID_VARIABLE, status.uid, _KILL_S):
            log.error("processes of a lost attempt cannot be killed", attempt=name, pids=sorted(left))
        lost = {
            "phase": AttemptPhase.ENDED,
            "ended_at": datetime.now(UTC),
            "node_lost": True,
            **self._last_output(name),
        }
        self._attempts.write_status(name, status.model_copy(update=lost))
        log.warning("attempt recorded as running was lost", attempt=name)

    def _tick(self) -> None:
        listing = self._attempts.listing()
        for name in listing.deletions:
            self._delete(name, exists=name in listing.specs)
        for name in listing.specs - self._running.keys() - self._ended - listing.deletions:
            self._begin(name)
        for name in list(self._running):
            self._check_on(name)
        self._engines.tend()

    def _delete(self, name: str, *, exists: bool) -> None:
        running = self._running.get(name)
        if running is not None:
            running.status = running.status.model_copy(update={"deleted": True})
            self._ask_to_end(name, running)
        elif exists:
            self._attempts.forget(name)
            self._ended.discard(name)
            shutil.rmtree(self._scratch / name, ignore_errors=True)
            log.info("attempt forgotten", attempt=name)
        else:
            self._attempts.withdraw_deletion(name)

    def _begin(self, name: str) -> None:
        if self._attempts.is_gone(name):  # forgetting it was cut short, or a worker asked too late
            self._attempts.forget(name)
            return
        if (known := self._attempts.status(name)) is not None:
            if known.phase is AttemptPhase.RUNNING:  # its start was recorded and then failed
                self._record_lost(name, known)
            self._ended.add(name)
            return
        status = AttemptStatus(uid=secrets.token_hex(16), phase=AttemptPhase.RUNNING, started_at=datetime.now(UTC))
        try:
            spec = self._attempts.spec(name)
        except RecordTooNew as error:
            self._refuse(name, status, str(error), Code.TOO_OLD)
            return
        except RecordUnreadable as error:
            self._refuse(name, status, str(error))
            return
        if spec is None:
            return
        # First the record, then the process: if this node dies in between, the next one finds the record.
        if not self._engines.ready_for(spec):
            return  # engines that wait are ending, whose memory it may need: it is pending until then
        self._attempts.write_status(name, status)
        try:
            engine = self._engines.engine_for(spec, status.uid, self._files_of(name))
        except OSError as error:
            self._refuse(name, status, f"the node cannot start it: {error}")
            return
        status = status.model_copy(update={"pid": engine.process.pid})
        self._running[name] = _Running(engine, status, deadline=time.monotonic() + spec.deadline_s)
        self._attempts.write_status(name, status)
        warm = engine.serial > 1
        log.info("attempt started", attempt=name, job=spec.job_ref, pid=engine.process.pid, warm=warm)

    def _files_of(self, name: str) -> AttemptFiles:
        scratch = self._scratch / name
        scratch.mkdir(mode=0o700, exist_ok=True)
        return AttemptFiles(scratch, scratch / _MESSAGE_FILE, self._logs / f"{name}.log")

    def _refuse(self, name: str, status: AttemptStatus, reason: str, code: Code = Code.CONFIG_ERROR) -> None:
        message = PodReport(code=code, message=reason).to_message()
        ended = {"phase": AttemptPhase.ENDED, "ended_at": datetime.now(UTC), "message": message}
        self._attempts.write_status(name, status.model_copy(update=ended))
        self._ended.add(name)
        log.error("attempt cannot run", attempt=name, reason=reason)

    def _check_on(self, name: str) -> None:
        running = self._running[name]
        engine = running.engine
        code = engine.exit_code()
        now = time.monotonic()
        if code is None and now >= running.deadline and engine.kill_at is None:
            running.status = running.status.model_copy(update={"deadline_exceeded": True})
            self._ask_to_end(name, running)
        if code is None and (engine.kill_at is None or now < engine.kill_at):
            return
        if not self._engines.keep(engine) and not engine.kill():
            return  # it has not ended while a process of it lives
        self._record_end(name, running, engine.process.wait() if code is None else code)

    def _ask_to_end(self, name: str, running: _Running) -> None:
        if running.engine.kill_at is None:
            running.engine.ask_to_end(self._grace_s)
            log.info("attempt asked to end", attempt=name, grace_s=self._grace_s)

    def _record_end(self, name: str, running: _Running, code: int) -> None:
        ended = running.status.model_copy(
            update={
                "phase": AttemptPhase.ENDED,
                "ended_at": datetime.now(UTC),
                "exit_code": code if code >= 0 else 128 - code,  # as a kubelet writes it
                "signal": -code if code < 0 else None,
                **self._last_output(name),
            }
        )
        self._attempts.write_status(name, ended)
        del self._running[name]
        self._ended.add(name)
        log.info("attempt ended", attempt=name, exit_code=ended.exit_code, signal=ended.signal)

    def _last_output(self, name: str) -> dict[str, str]:
        return {
            "message": _last_bytes(self._scratch / name / _MESSAGE_FILE),
            "log_tail": log_tail(self._logs / f"{name}.log"),
        }

    def _end_all(self) -> None:
        for name, running in self._running.items():
            if not running.status.deleted:
                running.status = running.status.model_copy(update={"node_lost": True})
            self._ask_to_end(name, running)
        self._engines.kill_idle()
        while self._running or self._engines.idle:
            for name in list(self._running):
                self._check_on(name)
            self._engines.tend()
            time.sleep(_SCAN_S / 2)


def _last_bytes(path: Path) -> str:
    """The end of a termination message, as much as a kubelet keeps."""
    try:
        return path.read_bytes()[-REPORT_LIMIT_BYTES:].decode(errors="replace")
    except FileNotFoundError:
        return ""


def main(arguments: Sequence[str], command: Callable[[AttemptSpec], Sequence[str]] = render) -> int:
    """Entry point of the node's process."""
    parser = argparse.ArgumentParser(prog="python -P -m embedded.node", description="Run attempts on this machine.")
    parser.add_argument("--data-dir", type=Path, required=True, help="data folder of the stack")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds from SIGTERM to SIGKILL")
    options = parser.parse_args(arguments)
    machine = load_part(MachineSettings, newer=True)
    configure_logging(machine.log_format, machine.log_level)
    node = Node(options.data_dir, command, grace_s=options.grace, warm_s=machine.warm_s)

    def stop(_number: int, _frame: FrameType | None) -> None:
        node.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    node.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
