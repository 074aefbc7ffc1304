"""What records the pieces of an evaluation.

A piece is what is computed between two cuts. Recording computes nothing: memory is afterwards as it was. A replay
reads and writes the very memory that the recording saw, and runs no Python of the layers. So whoever replays keeps
what a piece reads at its place, and replays pieces in their order.
"""

from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Protocol


class Replay(StrEnum):
    """Whether evaluations are recorded and replayed."""

    AUTO = "auto"  # on a GPU, as CUDA graphs
    NEVER = "never"
    OPERATORS = "operators"  # anywhere and slowly, as lists of operators: for tests


class Piece(Protocol):
    """Work between two cuts."""

    def replay(self) -> None:
        """Do it, in the order of the current stream."""

    def release(self) -> None:
        """Give back what it holds; it is of no use afterwards."""


class Tape(Protocol):
    """A recording that is being made.

    Attributes:
        pieces: those that have ended.
    """

    pieces: list[Any]

    def cut(self) -> None:
        """End a piece and begin the next."""


class Recorder(Protocol):
    """Makes recordings, which may share memory: of all of them only one may be replayed at a time."""

    @property
    def held_bytes(self) -> int:
        """Memory of all recordings that are left."""

    def record(self) -> AbstractContextManager[Tape]:
        """Record what the block computes. If it raises, nothing of it is kept."""
