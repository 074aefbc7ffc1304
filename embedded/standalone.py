"""Pictures where no stack runs: a process that has one engine, gives it one picture after the other, and then ends.

`python -P -m embedded.standalone --data-dir D`. Who wants a picture asks by files (pipeline/records/standalone.py). The
engine is the pod's own program, started as the local stack's node starts it, but for torchrun; it is given what a
worker would give it, so the picture is the one that the stack makes. It keeps its model for the next picture for
`TESSERA_WARM_S`; when it ends, this process does.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import structlog

from embedded.attempts import AttemptStatus
from embedded.engines import AttemptFiles, Engine, Engines
from embedded.launcher import outcome
from embedded.model import await_demo_model, start_demo_model
from embedded.ranks import with_ranks
from embedded.stack_settings import standalone_settings
from pipeline.client.local_stack import LOCK_FILE, MARKER_FILE
from pipeline.client.stack_environment import without_deployment
from pipeline.client.standalone import LOG, settings_digest
from pipeline.client.warm_engines import standalone_engines_folder
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.layout_choice import chosen_layout
from pipeline.deployment.settings import StandaloneSettings
from pipeline.errors import RecordUnreadable, TesseraError
from pipeline.names import STANDALONE_VARIABLE, attempt_name
from pipeline.process import flock
from pipeline.process.log_tail import log_tail
from pipeline.process.logs import configure_logging
from pipeline.process.private import UMASK, private_folder, tighten
from pipeline.records.attempt import (
    HOPELESS_EXIT_CODES,
    REPORT_LIMIT_BYTES,
    AttemptOutcome,
    AttemptPhase,
    AttemptSpec,
    Code,
    decided_by,
    loads_of,
)
from pipeline.records.object_keys import BatchObjects
from pipeline.records.shards import images_of, parsed_shard
from pipeline.records.standalone import Ended, PictureFolder, Serving, StandaloneFolder
from pipeline.version import installed_version

_RANK = (sys.executable, "-P", "-m", "distri.run")
_LOOK_S = 0.02
_GRACE_S = 3.0
_MODEL_S = 120.0
_FIRST_S = 30.0  # how long the first picture may take to be asked for
_PREDECESSOR_S = 1.0  # also longer than a client holds the lock to ask whether it is held

log = structlog.get_logger("embedded.standalone")


@dataclass
class _Rendering:
    """The picture that the engine has."""

    folder: PictureFolder
    spec: AttemptSpec
    engine: Engine
    began_at: datetime
    deadline: float
    log_bytes: int
    deadline_exceeded: bool = False


class Standalone:
    """Serves the pictures of a data folder, in turn. `run` in the main thread."""

    def __init__(
        self, data_dir: Path, settings: StandaloneSettings, digest: str, *, rank: Sequence[str] = _RANK
    ) -> None:
        self._data_dir, self._settings, self._digest = data_dir, settings, digest
        self._folder = StandaloneFolder.of(data_dir)
        self._log = data_dir / "logs" / LOG
        self._engines = Engines(
            standalone_engines_folder(data_dir),
            lambda spec: with_ranks(spec.gpus, rank, grace_s=_GRACE_S, deciding=HOPELESS_EXIT_CODES),
            grace_s=_GRACE_S,
            warm_s=settings.warm_s,
        )
        self._rendering: _Rendering | None = None
        self._stopping = False

    def stop(self) -> None:
        """Ask `run` to return; may be called from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Serve until nothing was asked for `TESSERA_WARM_S`, or until stopped."""
        self._engines.clear()
        ready = Serving(
            settings=self._digest,
            deployment=Deployment.of(self._settings, installed_version()),
            warm_s=self._settings.warm_s,
        )
        self._folder.write_serving(ready)
        until = time.monotonic() + _FIRST_S
        try:
            while not self._stopping and (self._tend() or time.monotonic() < until):
                if self._rendering is not None:
                    until = 0.0
                time.sleep(_LOOK_S)
        finally:
            self._end()

    def _tend(self) -> bool:
        """One look at everything; whether there is a reason to go on."""
        asked = self._asked_for()
        if self._rendering is None and asked:
            self._begin(asked[0])
        elif self._rendering is not None and not self._rendering.folder.is_awaited:
            self._forget(self._rendering.folder)
        elif self._rendering is not None:
            self._check_on(self._rendering)
        self._engines.tend()
        return bool(asked or self._rendering or self._engines.idle)

    def _asked_for(self) -> list[PictureFolder]:
        """What is to be rendered with our settings; what nobody waits for any more is removed."""
        wanted = []
        for folder in self._folder.asked_for():
            try:
                if not folder.is_awaited:
                    self._forget(folder)
                elif folder.asked.settings == self._digest and folder.ended is None:
                    wanted.append(folder)
            except (FileNotFoundError, RecordUnreadable):
                continue  # its asker has just taken it away, or is another version's
        return wanted

    def _forget(self, folder: PictureFolder) -> None:
        if self._rendering is not None and self._rendering.folder == folder:
            log.info("nobody waits for the picture any more", picture=folder.path.name)
            self._rendering.engine.kill()
            self._rendering = None
        shutil.rmtree(folder.path, ignore_errors=True)

    def _begin(self, folder: PictureFolder, *, lean: bool = False) -> None:
        spec = self._spec(folder, lean=lean)
        if not self._engines.ready_for(spec):
            return  # an engine of another kind is ending
        files = AttemptFiles(folder.path, folder.path / "termination-log", self._log)
        files.termination_log.unlink(missing_ok=True)
        size = self._log.stat().st_size if self._log.is_file() else 0
        engine = self._engines.engine_for(spec, secrets.token_hex(16), files)
        deadline = time.monotonic() + spec.deadline_s
        self._rendering = _Rendering(folder, spec, engine, datetime.now(UTC), deadline, size)
        log.info("rendering", picture=folder.path.name, warm=engine.serial > 1, lean=lean)

    def _spec(self, folder: PictureFolder, *, lean: bool) -> AttemptSpec:
        """What a worker would record for a job of this one row."""
        settings, batch_id, incarnation, number = self._settings, folder.path.name, secrets.token_hex(4), 1 + lean
        [task] = images_of(parsed_shard(folder.shard.read_bytes(), str(folder.shard)))
        choice = chosen_layout(
            settings.gpus,
            settings.layout,
            settings.goal,
            lambda: loads_of([task.row], settings),
            one_gpu_megapixels=settings.one_gpu_megapixels,
        )
        return AttemptSpec(
            name=attempt_name(incarnation, 0, number),
            batch_id=batch_id,
            incarnation=incarnation,
            job_index=0,
            number=number,
            token=secrets.token_hex(16),
            image=settings.image,
            layout=choice.layout,
            **decided_by(settings, task.row),
            lean=(task.index,) if lean else (),
            shard_key=BatchObjects(batch_id).shard(0),
            deadline_s=settings.deadline_s,
        )

    def _check_on(self, rendering: _Rendering) -> None:
        engine, now = rendering.engine, time.monotonic()
        code = engine.exit_code()
        if code is None and now > rendering.deadline:
            rendering.deadline_exceeded = True
            engine.ask_to_end(_GRACE_S)
        if code is None and (engine.kill_at is None or now < engine.kill_at):
            return
        if not self._engines.keep(engine) and not engine.kill():
            return
        ended = self._outcome(rendering, engine.process.wait() if code is None else code)
        self._rendering = None
        if ended.code is Code.OUT_OF_MEMORY and not rendering.spec.lean:
            self._begin(rendering.folder, lean=True)  # as the stack would
            return
        log.info("ended", picture=rendering.folder.path.name, code=ended.code.value)
        rendering.folder.write_ended(Ended(code=ended.code, reason=ended.reason))

    def _outcome(self, rendering: _Rendering, code: int) -> AttemptOutcome:
        try:
            message = (rendering.folder.path / "termination-log").read_bytes()[-REPORT_LIMIT_BYTES:]
        except FileNotFoundError:
            message = b""
        status = AttemptStatus(
            uid=rendering.engine.uid,
            phase=AttemptPhase.ENDED,
            started_at=rendering.began_at,
            ended_at=datetime.now(UTC),
            exit_code=code if code >= 0 else 128 - code,
            signal=-code if code < 0 else None,
            message=message.decode(errors="replace"),
            log_tail=log_tail(self._log, since=rendering.log_bytes),
            deadline_exceeded=rendering.deadline_exceeded,
        )
        return outcome(status)

    def _end(self) -> None:
        """End the engine, and say so to who waits: nothing is lost but a picture that is not finished."""
        if (rendering := self._rendering) is not None:
            rendering.engine.kill()
            if rendering.folder.path.is_dir():
                rendering.folder.write_ended(Ended(code=Code.DELETED, reason="what renders here was stopped"))
        self._engines.kill_idle()
        self._folder.forget_serving()


def main(arguments: Sequence[str]) -> int:
    """Entry point: exit status 0 also if another one serves; 1 if nothing can be rendered, and why is in a file."""
    parser = argparse.ArgumentParser(prog="python -P -m embedded.standalone", description=__doc__)
    parser.add_argument("--data-dir", type=lambda text: Path(text).expanduser().absolute(), required=True)
    data_dir: Path = parser.parse_args(arguments).data_dir
    configure_logging("json")
    os.umask(UMASK)
    private_folder(data_dir)
    folder = StandaloneFolder.of(data_dir)
    private_folder(folder.pictures)
    lock = flock.acquire(folder.lock, _PREDECESSOR_S)
    if lock is None:
        return 0
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    folder.forget_serving()  # a predecessor that was killed could not
    (data_dir / MARKER_FILE).touch(mode=0o600)
    tighten(folder.path)
    digest = settings_digest(data_dir, os.environ)
    try:
        settings = _settings(data_dir)
    except TesseraError as error:
        folder.write_serving(Serving(settings=digest, problem=str(error)))
        return 1
    plain = without_deployment(os.environ) | {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", STANDALONE_VARIABLE: "1"}
    own = plain | settings.environment()
    os.environ.clear()
    os.environ.update(own)  # what an engine inherits
    standalone = Standalone(data_dir, settings, digest)

    def stop(_number: int, _frame: FrameType | None) -> None:
        standalone.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    standalone.run()
    return 0


def _settings(data_dir: Path) -> StandaloneSettings:
    """The settings, once the demo model is there. Raises TesseraError."""
    if flock.is_held(data_dir / LOCK_FILE):
        raise TesseraError(f"the local stack on {data_dir} runs, or is coming up: ask it")
    child = start_demo_model(data_dir, without_deployment(os.environ) | {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"})
    if child is not None:
        await_demo_model(child, data_dir, _MODEL_S, lambda: False)
    return standalone_settings(data_dir, os.environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
