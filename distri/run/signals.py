"""What a replica's leader tells the other ranks, and what is asked of whoever leads: of a pod, or of one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from distri.model.image import Rendered
from distri.model.reference.references import KeptTokens
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from pipeline.bucket.trace import Trace
from pipeline.input_picture import InputPicture
from pipeline.records.attempt import Code
from pipeline.records.provenance import Provenance
from pipeline.records.results import FailureCode, ImageOutcome
from pipeline.records.shards import ImageTask


class LeaderSignal(IntEnum):
    """What the leader tells the other ranks of its replica before each image, at the start and at the end."""

    RENDER = 0
    SKIP = 1
    STOP = 2
    WAIT = 3  # ask again


@dataclass(frozen=True)
class LoadedShard:
    """A job's shard: its bytes as they were read, and the images that they name."""

    body: bytes
    tasks: list[ImageTask]


class Leads(Protocol):
    """What only the leader of a replica does: decide what is rendered, and put it where it belongs."""

    stopped_because: str | None
    stop_code: Code

    @property
    def claimed(self) -> bool:
        """Whether it may commit."""

    @property
    def outcomes(self) -> Mapping[int, ImageOutcome]:
        """What became of each image, by index."""

    @property
    def kept_tokens(self) -> KeptTokens | None:
        """Where engines of the same batch leave tokens of references for each other, if there are any."""

    def begin(self) -> LoadedShard | None:
        """What is to be rendered; None: ask again. Raises TesseraError."""

    def stop(self, reason: str, *, let_finish: bool = False) -> None:
        """Begin no other image, and end before the next evaluation, or after the images that are being rendered."""

    def end(self) -> None:
        """The job is over."""

    def decide(self, task: ImageTask, *, wait: bool = True) -> LeaderSignal:
        """Whether to render this image."""

    def control(self) -> Control:
        """Whether to go on, asked before every evaluation."""

    def read_ahead(self, task: ImageTask) -> None:
        """Begin to read what an image begins with that is likely to be decided next."""

    def input_png(self, picture: InputPicture) -> bytes:
        """The file of a picture that an image is made of; the image was decided before."""

    def commit(self, task: ImageTask, rendered: Rendered, provenance: Provenance) -> None:
        """Commit a rendered image, or record that it shows nothing."""

    def fail(self, task: ImageTask, code: FailureCode, message: str) -> None:
        """Record why this image cannot be rendered."""

    def finish(self, fragment: int | None) -> None:
        """Take no more images; at the end write the job's fragment, if a number is given."""

    def wait_until_finished(self) -> LeaderSignal:
        """STOP once everything is where it belongs, else WAIT; `finish` comes first."""

    def flush(self) -> None:
        """Finish without a fragment, and wait until everything is where it belongs."""

    def store_trace(self, trace: Trace) -> None:
        """Keep the attempt's trace."""


def await_signal(mesh: Mesh, ask: Callable[[], LeaderSignal]) -> LeaderSignal:
    """The leader's next signal but WAIT, which it sends often enough that no collective times out; blocks."""
    while (signal := LeaderSignal(mesh.broadcast_int(ask()))) is LeaderSignal.WAIT:
        continue
    return signal
