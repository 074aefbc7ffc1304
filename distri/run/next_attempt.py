"""How a rank whose attempt has ended waits for the next one, with its model in memory (docs/decisions/0445)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

from pipeline.names import ATTEMPT_VARIABLE, ENGINE_FOLDER_VARIABLE, POD_UID_VARIABLE, TERMINATION_LOG_VARIABLE
from pipeline.process.private import open_log
from pipeline.records.handover import EngineFolder, Waits

_LOOK_S = 0.02


class NextAttempt:
    """This rank's side of the engine's folder."""

    def __init__(self, folder: Path, rank: int, environ: MutableMapping[str, str]) -> None:
        self._folder, self._rank, self._environ = EngineFolder(folder), rank, environ
        self._serial = 1

    @classmethod
    def of(cls, environ: MutableMapping[str, str], rank: int) -> NextAttempt | None:
        """None where no other attempt will come: in a cluster, and where engines are not kept."""
        folder = environ.get(ENGINE_FOLDER_VARIABLE)
        return None if folder is None else cls(Path(folder), rank, environ)

    def wait(self, exit_code: int, *, model: str | None, memory_bytes: int, give_up: Callable[[], bool]) -> bool:
        """Say how this rank's part of the attempt ended, and wait for another one.

        Then environment, output and working folder are that one's. Returns False if this process was asked to end.
        """
        said = Waits(serial=self._serial, exit_code=exit_code, model=model, memory_bytes=memory_bytes)
        self._folder.write_waits(self._rank, said)
        while (handover := self._folder.handover(self._serial)) is None:
            if give_up():
                return False
            time.sleep(_LOOK_S)
        self._serial = handover.serial
        self._environ[ATTEMPT_VARIABLE] = handover.spec
        self._environ[POD_UID_VARIABLE] = handover.uid
        self._environ[TERMINATION_LOG_VARIABLE] = str(handover.termination_log)
        write_into(handover.log)
        os.chdir(handover.folder)
        return True


def write_into(log: Path) -> None:
    """Have what this process writes from now on go to this log."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open_log(log) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
