"""How a picture is asked of this machine's engine where no stack runs: files of a data folder, and nothing else.

standalone/serving.lock      held by the process that serves, while it lives
standalone/serving.json      what it renders, or why it cannot
standalone/pictures/<id>/    one picture that is asked for; the folder has its name once it is complete
    asker.lock         held while somebody waits for it
    asked.json         with which settings it is to be rendered
    shard.jsonl        its row, as the shard of a job has it
    <sha256>.png       what the row begins with
    image              its file, once it is rendered
    outcome.json       what became of it: a line as in results.jsonl or errors.jsonl
    ended.json         that nothing more will come, and why
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.deployment.announcement import Deployment
from pipeline.process import flock
from pipeline.process.files import write_private
from pipeline.records.attempt import Code
from pipeline.records.results import ImageOutcome, OutcomeLine
from pipeline.schema import read_record
from pipeline.stored import Record

SCHEMA_VERSION = 1

_UNFINISHED = ".new-"


class _Message(Record):
    schema_version: int = SCHEMA_VERSION


class Serving(_Message):
    """Who serves.

    Attributes:
        settings: digest of the settings that it renders with.
        deployment: what it renders.
        warm_s: how long it waits for another picture.
        problem: why it renders nothing.
    """

    settings: str
    deployment: Deployment | None = None
    warm_s: float = 0
    problem: str | None = None


class Asked(_Message):
    """How a picture is to be rendered: `settings` as in `Serving`."""

    settings: str


class Ended(_Message):
    """How the attempt at a picture ended."""

    code: Code
    reason: str


@dataclass(frozen=True)
class PictureFolder:
    """The folder of one picture."""

    path: Path

    @property
    def asker_lock(self) -> Path:
        return self.path / "asker.lock"

    @property
    def shard(self) -> Path:
        return self.path / "shard.jsonl"

    @property
    def image(self) -> Path:
        return self.path / "image"

    def input_picture(self, sha256: str) -> Path:
        """Where a picture lies that the row begins with."""
        return self.path / f"{sha256}.png"

    @property
    def asked(self) -> Asked:
        """How it is to be rendered. Raises FileNotFoundError, RecordUnreadable."""
        path = self.path / "asked.json"
        return read_record(Asked, path.read_bytes(), what=str(path))

    def write_asked(self, asked: Asked) -> None:
        """Say how it is to be rendered."""
        write_private(self.path / "asked.json", asked.model_dump_json())

    @property
    def outcome(self) -> ImageOutcome | None:
        """What became of it; None while that is open. Raises RecordUnreadable."""
        path = self.path / "outcome.json"
        return read_record(OutcomeLine, path.read_bytes(), what=str(path)).root if path.is_file() else None

    def write_outcome(self, outcome: ImageOutcome) -> None:
        """Say what became of it."""
        write_private(self.path / "outcome.json", outcome.model_dump_json())

    @property
    def ended(self) -> Ended | None:
        """How the attempt ended; None while it has not. Raises RecordUnreadable."""
        path = self.path / "ended.json"
        return read_record(Ended, path.read_bytes(), what=str(path)) if path.is_file() else None

    def write_ended(self, ended: Ended) -> None:
        """Say how the attempt ended."""
        write_private(self.path / "ended.json", ended.model_dump_json())

    @property
    def is_awaited(self) -> bool:
        """Whether somebody still waits for it."""
        return flock.is_held(self.asker_lock)


@dataclass(frozen=True)
class StandaloneFolder:
    """The folder of all of it."""

    path: Path

    @classmethod
    def of(cls, data_dir: Path) -> StandaloneFolder:
        """That of a data folder."""
        return cls(data_dir / "standalone")

    @property
    def lock(self) -> Path:
        return self.path / "serving.lock"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def serving(self) -> Serving | None:
        """Who serves, once it can say so; ask only while the lock is held. Raises RecordUnreadable."""
        path = self.path / "serving.json"
        return read_record(Serving, path.read_bytes(), what=str(path)) if path.is_file() else None

    def write_serving(self, serving: Serving) -> None:
        """Say who serves."""
        write_private(self.path / "serving.json", serving.model_dump_json())

    def forget_serving(self) -> None:
        """Say that nobody does."""
        (self.path / "serving.json").unlink(missing_ok=True)

    def new(self, picture_id: str) -> PictureFolder:
        """A folder to fill; nobody looks at it until it is `ask`ed for."""
        folder = self.pictures / f"{_UNFINISHED}{picture_id}"
        folder.mkdir(mode=0o700)
        return PictureFolder(folder)

    def ask(self, filled: PictureFolder) -> PictureFolder:
        """Give it its name; returns the folder from then on."""
        return PictureFolder(filled.path.rename(self.pictures / filled.path.name.removeprefix(_UNFINISHED)))

    def before(self, folder: PictureFolder) -> int:
        """How many that others wait for are rendered before this one."""
        return sum(one.is_awaited and one.ended is None for one in self.asked_for() if one.path.name < folder.path.name)

    def asked_for(self) -> Iterator[PictureFolder]:
        """All pictures that are asked for, in the order of their ids."""
        names = sorted(one.name for one in self.pictures.iterdir() if not one.name.startswith(_UNFINISHED))
        return (PictureFolder(self.pictures / name) for name in names)
