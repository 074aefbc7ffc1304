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
        images: like the one that was measured, each with the most rows that it ever has.
    """

    rows: int
    images: int


@dataclass(frozen=True)
class _Need:
    """What was measured of a kind.

    Attributes:
        row_bytes: what each row takes, with all that is held of it.
        most_rows: of the image that was measured.
        free_bytes: what there is for a table, when one of this kind was begun last.
        fit: what follows.
    """

    row_bytes: int
    most_rows: int
    free_bytes: int
    fit: Fit


class Room:
    """Measures each kind of table once. All ranks of a replica call it together.

    Args:
        mesh: whose memory it is; where that is not measured, there is room for everything.
        held: how many times an evaluation's activations are held at once: those of recordings stay.
        buffers_bytes: what evaluations leave to the next ones by now, held once whatever `held` is; nothing without it.
        spare_bytes: what is kept of shapes may grow by so much, a shape for every number of rows; no table may count
            on it. Less than nothing where more is kept than may stay.
    """

    def __init__(
        self, mesh: Mesh, *, held: int, buffers_bytes: Callable[[], int] = int, spare_bytes: Callable[[], int] = int
    ) -> None:
        self._mesh, self._held = mesh, held
        self._buffers_bytes, self._spare_bytes = buffers_bytes, spare_bytes
        self._needs: dict[Hashable, _Need] = {}
        self._decodes: dict[Hashable, int] = {}
        self._begun: Hashable = None

    def is_measured(self, kind: Hashable) -> bool:
        """Whether it is known how many fit, or nothing can be."""
        return self._mesh.memory is None or kind in self._needs

    def fit(self, kind: Hashable) -> Fit | None:
        """How many fit; None if nothing says."""
        return self._needs[kind].fit if kind in self._needs else None

    def begin(self, kind: Hashable, wait: Callable[[], object]) -> None:
        """A table of this kind is filled next. After one of another, models may have come into memory. Blocks.

        `wait` returns when nobody holds memory for a moment; it is called before memory is looked at.
        """
        before, self._begun = self._begun, kind
        need = self._needs.get(kind)
        if self._mesh.memory is not None and need is not None and kind != before:
            wait()
            self._note(kind, need.row_bytes, need.most_rows, self._free_bytes())

    @contextmanager
    def evaluation(self, kind: Hashable, rows: int, *, most_rows: int) -> Iterator[None]:
        """The block is the first evaluation of a kind, of one image: measure what it takes. Blocks.

        Args:
            kind: of the table.
            rows: how many conditions it evaluates.
            most_rows: how many an evaluation of this image has at most.
        """
        memory = self._mesh.memory
        if memory is None:
            yield
            return
        free_bytes, before_bytes = self._free_bytes(), self._buffers_bytes()
        with memory.peak() as peak:
            yield
        # The first evaluation publishes in most schedules, and so makes the buffers.
        left_bytes = max(0, self._buffers_bytes() - before_bytes)
        taken_bytes = max(0, peak.taken_bytes - left_bytes) * self._held + left_bytes
        self._note(kind, max(1, taken_bytes // rows), most_rows, free_bytes)

    def _free_bytes(self) -> int:
        """What there is for a table, whatever is kept of other shapes by now."""
        return self._mesh.memory.free_bytes() - self._spare_bytes() if self._mesh.memory is not None else 0

    def _note(self, kind: Hashable, row_bytes: int, most_rows: int, free_bytes: int) -> None:
        rows = max(most_rows, p2p.least(self._mesh, int(SHARE * free_bytes) // row_bytes))
        fit = Fit(rows, rows // most_rows)
        self._needs[kind] = _Need(row_bytes, most_rows, free_bytes, fit)
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
        rows = min(need.fit.rows, images * need.most_rows)
        return decode_bytes + rows * need.row_bytes <= SHARE * need.free_bytes
