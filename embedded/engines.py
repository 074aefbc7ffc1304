"""The processes of the local node's attempts: a pod's very command, and engines that wait for another attempt.

An engine whose attempt ended as it should stays, with its model in memory, and takes the next attempt of its kind
without a start of Python and a load. It ends when it has had nothing to do for a while, before another kind of attempt
starts, which may need the memory, and with the node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from embedded.processes.marked import kill_marked
from embedded.run_with_parent import with_parent
from pipeline.client.warm_engines import WarmEngine, forget_about, write_about
from pipeline.errors import RecordUnreadable
from pipeline.names import (
    ATTEMPT_VARIABLE,
    ENGINE_FOLDER_VARIABLE,
    POD_UID_VARIABLE,
    TERMINATION_LOG_VARIABLE,
)
from pipeline.process.private import UMASK, open_log
from pipeline.records.attempt import SHUTDOWN_VARIABLE, AttemptSpec
from pipeline.records.handover import EngineFolder, Handover, Waits

_KILL_S = 2.0
# What of a spec is about one job, so that the engine of another may render it.
_OF_ONE_JOB = {
    "name", "batch_id", "incarnation", "job_index", "number", "token", "lean", "shard_key", "deadline_s", "avoid_nodes",
}  # fmt: skip

log = structlog.get_logger("embedded.engines")


@dataclass(frozen=True)
class AttemptFiles:
    """Where an attempt's files go."""

    folder: Path
    termination_log: Path
    log: Path


@dataclass
class Engine:
    """The processes of an attempt, or of several, one after the other.

    Attributes:
        uid: of the pod as which it began; its processes are found by it.
        process: the first of them.
        kind: of the attempts that it can take.
        ranks: how many processes render.
        serial: of the attempt that it has or had.
        idle_since: when it began to wait; None while it has an attempt.
        kill_at: when it is killed, once it was asked to end.
    """

    uid: str
    process: subprocess.Popen[bytes]
    folder: EngineFolder
    kind: str
    ranks: int
    serial: int = 1
    idle_since: float | None = None
    kill_at: float | None = None

    def exit_code(self) -> int | None:
        """How its attempt ended, negative for a signal; None while it has not."""
        if (waits := self.waits()) is not None:
            return next((one.exit_code for one in waits if one.exit_code), 0)
        return self.process.poll()

    def waits(self) -> list[Waits] | None:
        """What its ranks say if all of them have ended the attempt and wait for another."""
        try:
            return self.folder.waits(self.ranks, self.serial)
        except RecordUnreadable:
            return None

    def ask_to_end(self, grace_s: float) -> None:
        """Ask it to end, and have it killed after the grace."""
        if self.kill_at is None:
            self.kill_at = time.monotonic() + grace_s
            self.process.terminate()

    def kill(self) -> bool:
        """Kill what is left of it; whether that has succeeded."""
        if left := kill_marked(POD_UID_VARIABLE, self.uid, _KILL_S):
            log.error("processes of an engine cannot be killed", engine=self.uid, pids=sorted(left))
            return False
        self.process.wait()
        shutil.rmtree(self.folder.path, ignore_errors=True)
        return True


class Engines:
    """All engines of a node.

    Args:
        root: where each has its folder.
        command: of an attempt's processes.
        grace_s: from the request to end to the kill.
        warm_s: how long an engine waits for another attempt; 0: none does.
    """

    def __init__(
        self, root: Path, command: Callable[[AttemptSpec], Sequence[str]], *, grace_s: float, warm_s: float
    ) -> None:
        self._root = root
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._command, self._grace_s, self._warm_s = command, grace_s, warm_s
        self._idle: list[Engine] = []

    def clear(self) -> None:
        """Kill what an earlier node has left."""
        for folder in self._root.iterdir():
            if left := kill_marked(POD_UID_VARIABLE, folder.name, _KILL_S):
                log.error("processes of an engine cannot be killed", engine=folder.name, pids=sorted(left))
            shutil.rmtree(folder, ignore_errors=True)

    def ready_for(self, spec: AttemptSpec) -> bool:
        """Whether `engine_for` may be called: an engine waits for such an attempt, or none waits. Others are ended."""
        if self._fitting(spec):
            return True
        self.end_idle()
        return not self._idle

    def engine_for(self, spec: AttemptSpec, uid: str, files: AttemptFiles) -> Engine:
        """An engine that has this attempt now. Raises OSError."""
        for engine in self._fitting(spec):
            self._idle.remove(engine)
            try:
                if self._hand_over(engine, spec, uid, files):
                    return engine
            except OSError:
                log.exception("an engine cannot be given an attempt", engine=engine.uid)
            engine.kill()
        return self._start(spec, uid, files)

    def _fitting(self, spec: AttemptSpec) -> list[Engine]:
        """A retry gets processes of its own: something was wrong with the attempt before."""
        if spec.number > 1 or spec.lean:
            return []
        return [one for one in self._idle if one.kind == _kind(spec) and one.kill_at is None]

    def keep(self, engine: Engine) -> bool:
        """Have an engine whose attempt has ended wait for another; False if it cannot and must be killed.

        Only one whose attempt has succeeded: what was paused or cancelled gives its GPUs back.
        """
        waits = engine.waits()
        if self._warm_s <= 0 or waits is None or any(one.exit_code for one in waits):
            return False
        if engine.kill_at is not None or engine.process.poll() is not None:
            return False
        engine.idle_since = time.monotonic()
        about = WarmEngine(
            model=waits[0].model,
            ranks=engine.ranks,
            memory_bytes=sum(one.memory_bytes for one in waits),
            since=datetime.now(UTC),
            ends_after_s=self._warm_s,
        )
        write_about(engine.folder.path, about)
        self._idle.append(engine)
        log.info("engine waits for another attempt", engine=engine.uid, model=about.model)
        return True

    def tend(self) -> None:
        """End those that have waited long enough; forget those that are gone."""
        now = time.monotonic()
        for engine in list(self._idle):
            if engine.idle_since is not None and now - engine.idle_since > self._warm_s:
                engine.ask_to_end(self._grace_s)
            gone = engine.process.poll() is not None
            if (gone or (engine.kill_at is not None and now > engine.kill_at)) and engine.kill():
                self._idle.remove(engine)
                log.info("engine that waited has ended", engine=engine.uid)

    def kill_idle(self) -> None:
        """End all that wait, at once: they have nothing to save."""
        self._idle = [engine for engine in self._idle if not engine.kill()]

    def end_idle(self) -> None:
        """Ask all that wait to end."""
        for engine in self._idle:
            engine.ask_to_end(self._grace_s)
        self.tend()

    @property
    def idle(self) -> int:
        """How many wait, or were asked to end while they did."""
        return len(self._idle)

    def _hand_over(self, engine: Engine, spec: AttemptSpec, uid: str, files: AttemptFiles) -> bool:
        forget_about(engine.folder.path)
        handover = Handover(
            serial=engine.serial + 1,
            spec=spec.model_dump_json(),
            uid=uid,
            termination_log=files.termination_log,
            log=files.log,
            folder=files.folder,
        )
        if engine.process.poll() is not None:
            return False
        engine.folder.hand_over(handover)
        engine.serial, engine.idle_since = handover.serial, None
        return True

    def _start(self, spec: AttemptSpec, uid: str, files: AttemptFiles) -> Engine:
        folder = self._root / uid
        folder.mkdir(mode=0o700)
        environment = os.environ | {
            ATTEMPT_VARIABLE: spec.model_dump_json(),
            POD_UID_VARIABLE: uid,
            TERMINATION_LOG_VARIABLE: str(files.termination_log),
            "OMP_NUM_THREADS": "1",
            "PYTHONSAFEPATH": "1",
            "HF_HUB_OFFLINE": "1",
            SHUTDOWN_VARIABLE: str(int(max(0, self._grace_s - 1))),  # the rest of the time is for torchrun itself
        }
        if self._warm_s > 0:
            environment[ENGINE_FOLDER_VARIABLE] = str(folder)
        try:
            with open_log(files.log) as output:
                process = subprocess.Popen(
                    with_parent(self._command(spec)),
                    env=environment,
                    cwd=files.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    umask=UMASK,
                )
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Engine(uid, process, EngineFolder(folder), _kind(spec), spec.gpus)


def _kind(spec: AttemptSpec) -> str:
    return spec.model_dump_json(exclude=_OF_ONE_JOB)
