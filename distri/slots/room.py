"""How many images a table has memory for, by what the first evaluation of their kind took."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from distri.ranks import p2p
from distri.ranks.mesh import Mesh

log = structlog.get_logger(__name__)

# Of what is free: the rest is lost between the blocks of an allocator.
SHARE = 0.9


@dataclass(frozen=True)
class Fit:
    """What memory has room for; equal on all ranks of a replica.

    Attributes:
        rows: conditions of images that can be evaluated together.
        images: as many as the one that was measured.
    """

    rows: int
    images: int


@dataclass(frozen=True)
class _Need:
    """What was measured of a kind: what was free before, and what each row takes, with all that is held of it."""

    free_bytes: int
    row_bytes: int
    fit: Fit


class Room:
    """Measures each kind of table once. All ranks of a replica call it together.

    Args:
        mesh: whose memory it is; where that is not measured, there is room for everything.
        held: how many times an evaluation's activations are held at once: those of recordings stay.
        buffers_bytes: what evaluations leave to the next ones by now, held once whatever `held` is; nothing without it.
    """

    def __init__(self, mesh: Mesh, *, held: int, buffers_bytes: Callable[[], int] = int) -> None:
        self._mesh, self._held, self._buffers_bytes = mesh, held, buffers_bytes
        self._needs: dict[Hashable, _Need] = {}
        self._decodes: dict[Hashable, int] = {}

    def is_measured(self, kind: Hashable) -> bool:
        """Whether it is known how many fit, or nothing can be."""
        return self._mesh.memory is None or kind in self._needs

    def fit(self, kind: Hashable) -> Fit | None:
        """How many fit; None if nothing says."""
        return self._needs[kind].fit if kind in self._needs else None

    @contextmanager
    def evaluation(self, kind: Hashable, rows: int) -> Iterator[None]:
        """The block is the first evaluation of a kind, of so many rows: measure what it takes. Blocks."""
        memory = self._mesh.memory
        if memory is None:
            yield
            return
        free_bytes, before_bytes = memory.free_bytes(), self._buffers_bytes()
        with memory.peak() as peak:
            yield
        # The first evaluation publishes in most schedules, and so makes the buffers.
        left_bytes = max(0, self._buffers_bytes() - before_bytes)
        taken_bytes = max(0, peak.taken_bytes - left_bytes) * self._held + left_bytes
        row_bytes = max(1, taken_bytes // rows)
        fitting = max(rows, p2p.least(self._mesh, int(SHARE * free_bytes) // row_bytes))
        fit = Fit(fitting, fitting // rows)
        self._needs[kind] = _Need(free_bytes, row_bytes, fit)
        log.info("memory measured", kind=str(kind), free_bytes=free_bytes, row_bytes=row_bytes, images_fit=fit.images)

    @contextmanager
    def decode(self, kind: Hashable) -> Iterator[None]:
        """The block decodes an image of a kind while nothing else is computed: measure it, the first time."""
        memory = self._mesh.memory
        if memory is None or kind in self._decodes:
            yield
            return
        with memory.peak() as peak:
            yield
        self._decodes[kind] = peak.taken_bytes

    def holds_decode(self, kind: Hashable, images: int) -> bool:
        """Whether an image can be decoded while so many are evaluated; not before one was decoded alone."""
        if self._mesh.memory is None:
            return True
        need, decode_bytes = self._needs.get(kind), self._decodes.get(kind)
        if need is None or decode_bytes is None:
            return False
        rows = min(need.fit.rows, images * (need.fit.rows // need.fit.images))
        return decode_bytes + rows * need.row_bytes <= SHARE * need.free_bytes
