"""The files by which workers and the local node exchange attempts, so that each survives the end of the other.

node/attempts/<name>.spec.json    a worker asks for this attempt; linked into place, so a second create fails
node/attempts/<name>.status.json  what the node knows of it; only the node writes it
node/attempts/<name>.delete       a worker asks to end and forget it
node/gone/<name>                  the attempt was deleted; its name is never used again
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.process.files import unfinished, write_private
from pipeline.records.attempt import AttemptPhase, AttemptSpec
from pipeline.schema import read_record
from pipeline.stored import Moment, Record

SCHEMA_VERSION = 1

_SPEC, _STATUS, _DELETE = ".spec.json", ".status.json", ".delete"


class AttemptStatus(Record):
    """What the node knows of one attempt that it has started."""

    schema_version: int = SCHEMA_VERSION
    uid: str
    phase: Literal[AttemptPhase.RUNNING, AttemptPhase.ENDED]
    pid: int | None = None
    started_at: Moment
    ended_at: Moment | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    log_tail: str = ""
    deadline_exceeded: bool = False
    deleted: bool = False
    node_lost: bool = False


class Gone(Exception):  # not an error by itself: the caller decides what it means
    """The name was used before and its attempt was deleted."""


@dataclass(frozen=True)
class Listing:
    """What one listing of the folder shows: names with a spec, and names to delete."""

    specs: frozenset[str]
    deletions: frozenset[str]


class AttemptFolder:
    """The folder `data_dir`/node. After every method, also a killed one, any other process can go on."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "node"
        self._live = self.root / "attempts"
        self._gone = self.root / "gone"
        for folder in (self._live, self._gone):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, spec: AttemptSpec) -> None:
        """Ask for an attempt. Raises FileExistsError if its name is in use, Gone if it was used before."""
        if self.is_gone(spec.name):
            raise Gone(spec.name)
        temporary = unfinished(self._live / spec.name, spec.model_dump_json().encode())
        try:
            self._path(spec.name, _SPEC).hardlink_to(temporary)
        finally:
            temporary.unlink()
        # The node marks a name as gone before it removes the spec, so look again: it may have done both since.
        if self.is_gone(spec.name):
            self._path(spec.name, _SPEC).unlink(missing_ok=True)
            raise Gone(spec.name)

    def request_deletion(self, name: str) -> None:
        """Ask to end and forget an attempt; nothing happens if there is none."""
        if self._path(name, _SPEC).exists():
            self._path(name, _DELETE).touch(mode=0o600)

    def listing(self) -> Listing:
        """What is there now, from one directory listing."""
        names = [entry.name for entry in self._live.iterdir()]
        return Listing(_cut(names, _SPEC), _cut(names, _DELETE))

    def spec(self, name: str) -> AttemptSpec | None:
        """The spec; None if the attempt was deleted. Raises RecordUnreadable."""
        text = _bytes(self._path(name, _SPEC))
        return None if text is None else read_record(AttemptSpec, text, what=f"the spec of {name}")

    def status(self, name: str) -> AttemptStatus | None:
        """What the node knows; None until it has started the attempt. Raises RecordUnreadable."""
        text = _bytes(self._path(name, _STATUS))
        return None if text is None else read_record(AttemptStatus, text, what=f"the status of {name}")

    def write_status(self, name: str, status: AttemptStatus) -> None:
        """Record what is known now. For the node only."""
        write_private(self._path(name, _STATUS), status.model_dump_json())

    def is_gone(self, name: str) -> bool:
        """Whether an attempt of this name was there and has been deleted."""
        return (self._gone / name).exists()

    def forget(self, name: str) -> None:
        """Remove the attempt and remember its name; can be repeated after an interruption. For the node only."""
        (self._gone / name).touch(mode=0o600)
        for suffix in (_SPEC, _STATUS, _DELETE):
            self._path(name, suffix).unlink(missing_ok=True)

    def withdraw_deletion(self, name: str) -> None:
        """Remove a deletion request for an attempt that is already gone. For the node only."""
        self._path(name, _DELETE).unlink(missing_ok=True)

    def _path(self, name: str, suffix: str) -> Path:
        return self._live / f"{name}{suffix}"


def _cut(names: Iterable[str], suffix: str) -> frozenset[str]:
    return frozenset(name.removesuffix(suffix) for name in names if name.endswith(suffix))


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
