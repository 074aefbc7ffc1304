"""How an engine that has ended an attempt is given the next one: files in the engine's folder, and nothing else.

handover.json        the attempt that it has; whoever runs it replaces it
<rank>.waits.json    what a rank says when its part of an attempt has ended and it waits for another

The folder is named for the UID of the pod that the engine began as, which marks its processes.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.process.files import write_private
from pipeline.schema import read_record
from pipeline.stored import Record

SCHEMA_VERSION = 1

_HANDOVER = "handover.json"


class Handover(Record):
    """An attempt for an engine that waits: what a pod finds in its environment, and where its output goes."""

    schema_version: int = SCHEMA_VERSION
    serial: int  # of the attempts of this engine, from 1; the first it found in its environment
    spec: str  # JSON
    uid: str
    termination_log: Path
    log: Path
    folder: Path


class Waits(Record):
    """A rank that has ended an attempt and waits for another."""

    schema_version: int = SCHEMA_VERSION
    serial: int
    exit_code: int
    model: str | None = None
    memory_bytes: int = 0


class EngineFolder:
    """The files of one engine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def hand_over(self, handover: Handover) -> None:
        """Give the engine an attempt. Only to one that waits."""
        write_private(self.path / _HANDOVER, handover.model_dump_json())

    def handover(self, after: int) -> Handover | None:
        """The attempt that it has been given after attempt number `after`; None while there is none."""
        try:
            body = (self.path / _HANDOVER).read_bytes()
        except FileNotFoundError:
            return None
        found = read_record(Handover, body, what=str(self.path / _HANDOVER))
        return found if found.serial > after else None

    def write_waits(self, rank: int, waits: Waits) -> None:
        """Say that this rank waits."""
        write_private(self._of(rank), waits.model_dump_json())

    def waits(self, ranks: int, serial: int) -> list[Waits] | None:
        """What all ranks say of this attempt; None while one of them is at work, or has died of it."""
        found = []
        for rank in range(ranks):
            try:
                one = read_record(Waits, self._of(rank).read_bytes(), what=str(self._of(rank)))
            except FileNotFoundError:
                return None
            if one.serial != serial:
                return None
            found.append(one)
        return found

    def _of(self, rank: int) -> Path:
        return self.path / f"{rank}.waits.json"
