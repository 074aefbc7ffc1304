"""A recorded evaluation, and how it is compared with the evaluation as it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distri.ranks.buckets import Cut

COMPARED_AT_ONCE = 1 << 24  # elements


@dataclass(frozen=True)
class Recording:
    """An evaluation as pieces, with a cut between any two.

    Attributes:
        inputs: what it reads at its own place; filled anew for every replay.
        pieces: one more than cuts.
        output: what it leaves.
    """

    inputs: tuple[Tensor, ...]
    pieces: Sequence[Any]
    cuts: Sequence[Cut]
    output: Tensor

    def fill(self, inputs: Sequence[Tensor]) -> None:
        """Put other inputs of the same shapes where it reads them."""
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)

    def replay(self, inputs: Sequence[Tensor]) -> Tensor:
        """What the evaluation gives for these inputs; blocks where the messages do."""
        self.fill(inputs)
        for piece, cut in zip(self.pieces, self.cuts, strict=False):
            piece.replay()
            cut.act()
        self.pieces[-1].replay()
        return self.output.clone()

    def release(self) -> None:
        """Give back what the pieces hold."""
        for piece in self.pieces:
            piece.release()


class Comparison:
    """Plays a recording beside the evaluation as it is, a piece ahead of it, and compares what both send.

    Both read and write the same buffers of the exchange. So what a piece has put into buckets that are being filled is
    noted and taken back, and the evaluation as it is writes last.

    Attributes:
        failure: why the recording could not be played to its end.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._differences: list[Tensor] = []
        self._filled: list[tuple[Tensor, Tensor]] = []  # by the last piece: what is sent, and its values
        self._place = 0
        self.failure: str | None = None

    def begin(self, inputs: Sequence[Tensor]) -> None:
        """Play the first piece."""
        self._try(lambda: self._recording.fill(inputs))
        self._try(self._play)

    def at_cut(self, cut: Cut) -> None:
        """Pass a cut of the evaluation as it is, then play the next piece with what has arrived."""
        self._try(lambda: self._compare(cut))
        cut.act()
        self._try(lambda: self._go_on(cut))

    def _compare(self, cut: Cut) -> None:
        """What both send there."""
        if self._place >= len(self._recording.cuts):
            raise RuntimeError(f"it has {len(self._recording.cuts)} cuts, the evaluation as it is has more")
        self._differences += [_difference(value, tensor) for tensor, value in self._filled]
        if cut.bucket is None:
            pairs = zip(self._recording.cuts[self._place].sent, cut.sent, strict=True)
            self._differences += [_difference(*pair) for pair in pairs]

    def _go_on(self, cut: Cut) -> None:
        """Play the next piece with what has arrived."""
        for place, value in zip(self._recording.cuts[self._place].received, cut.received, strict=True):
            if cut.bucket is None:
                place.copy_(value)
        self._place += 1
        self._play()

    def _try(self, work: Callable[[], None]) -> None:
        """Part of the comparison, unless it has failed: whatever is wrong with it is no fault of the evaluation."""
        if self.failure is None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a recording that cannot be compared is not used
                self.failure = first_line(error)

    def difference(self, wanted: Tensor) -> float:
        """The largest difference, relative to the largest value of its tensor; not a number where one has none."""
        if self.failure is None and self._place < len(self._recording.cuts):
            self.failure = f"it has {len(self._recording.cuts)} cuts, the evaluation as it is has {self._place}"
        self._try(lambda: self._differences.append(_difference(self._recording.output, wanted)))
        return float("nan") if self.failure is not None else float(torch.stack(self._differences).max())

    def _play(self) -> None:
        behind, ahead = self._recording.cuts[: self._place], self._recording.cuts[self._place :]
        begun = [cut.bucket for cut in behind if cut.bucket is not None]
        before = [(tensor, tensor.clone()) for cut in ahead if cut.bucket in begun for tensor in cut.sent]
        try:
            self._recording.pieces[self._place].replay()
            self._filled = [(tensor, tensor.clone()) for tensor, _ in before]
        finally:
            for tensor, value in before:
                tensor.copy_(value)


def _difference(found: Tensor, wanted: Tensor) -> Tensor:
    """Largest difference where both are not the same, relative to the largest finite value.

    What is infinite or no number in both is the same: an image that overflows is no fault of the recording.
    """
    differences, sizes = [], []
    for one, other in in_pieces(found, wanted):
        same = (one == other) | (one.isnan() & other.isnan())
        differences.append(torch.where(same, 0.0, (one.float() - other.float()).abs()).max())
        sizes.append(torch.where(other.isfinite(), other.float().abs(), 0.0).max())
    largest = torch.stack(sizes).max().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.stack(differences).max() / largest


def in_pieces(found: Tensor, wanted: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Two tensors of one shape, cut alike, so that comparing them takes no memory to speak of. Raises ValueError."""
    if found.shape != wanted.shape:
        raise ValueError(f"{tuple(found.shape)} numbers where {tuple(wanted.shape)} are wanted")
    dim = max(range(wanted.ndim), key=lambda one: wanted.shape[one])
    size = max(1, COMPARED_AT_ONCE * wanted.shape[dim] // max(1, wanted.numel()))
    return list(zip(torch.split(found, size, dim), torch.split(wanted, size, dim), strict=True))


def first_line(error: BaseException) -> str:
    """An error in a line of a log."""
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
