"""Engines of this machine that wait with a model in memory, as their owner sees them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pipeline.errors import RecordUnreadable
from pipeline.process.files import write_private
from pipeline.schema import read_record
from pipeline.stored import Moment, Record

SCHEMA_VERSION = 1

_ABOUT = "waits.json"


class WarmEngine(Record):
    """One that waits.

    Attributes:
        model: that it has loaded.
        ranks: its processes.
        memory_bytes: held by all of them.
        since: when it began to wait.
        ends_after_s: from then on, unless it gets work.
    """

    schema_version: int = SCHEMA_VERSION
    model: str | None
    ranks: int
    memory_bytes: int
    since: Moment
    ends_after_s: float

    def __str__(self) -> str:
        ends_at = self.since + timedelta(seconds=self.ends_after_s)
        return (
            f"{self.model or 'no model'}, {self.ranks} ranks, {self.memory_bytes / 2**30:.1f} GiB, without work since "
            f"{self.since:%H:%M:%S} UTC, ends at {ends_at:%H:%M:%S}"
        )


def engines_folder(data_dir: Path) -> Path:
    """Where each engine of a local stack has its folder."""
    return data_dir / "node" / "engines"


def standalone_engines_folder(data_dir: Path) -> Path:
    """Where one has it that renders without a stack."""
    return data_dir / "standalone" / "engines"


def write_about(folder: Path, about: WarmEngine) -> None:
    """Say that the engine of this folder waits. For the node only."""
    write_private(folder / _ABOUT, about.model_dump_json())


def forget_about(folder: Path) -> None:
    """Say that it does not any more. For the node only."""
    (folder / _ABOUT).unlink(missing_ok=True)


def warm_engines(root: Path) -> list[WarmEngine]:
    """Those below that wait now. Ask only while somebody keeps them: who is killed leaves their folders."""
    found = []
    for path in sorted(root.glob(f"*/{_ABOUT}")):
        try:
            found.append(read_record(WarmEngine, path.read_bytes(), what=str(path)))
        except (FileNotFoundError, RecordUnreadable):
            continue  # it has just got work, or is another version's
    return found
