"""A recorded evaluation, and how it is compared with the evaluation as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distri.ranks.buckets import Cut


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
        self._recording.fill(inputs)
        self._play()

    def at_cut(self, cut: Cut) -> None:
        """Pass a cut of the evaluation as it is, then play the next piece with what has arrived."""
        if self.failure is None and self._place >= len(self._recording.cuts):
            self.failure = f"it has {len(self._recording.cuts)} cuts, the evaluation as it is has more"
        if self.failure is None:
            self._differences += [_difference(value, tensor) for tensor, value in self._filled]
            if cut.bucket is None:
                pairs = zip(self._recording.cuts[self._place].sent, cut.sent, strict=True)
                self._differences += [_difference(*pair) for pair in pairs]
        cut.act()
        if self.failure is None:
            for place, value in zip(self._recording.cuts[self._place].received, cut.received, strict=True):
                if cut.bucket is None:
                    place.copy_(value)
            self._place += 1
            self._play()

    def difference(self, wanted: Tensor) -> float:
        """The largest difference, relative to the largest value of its tensor; not a number where one has none."""
        if self.failure is None and self._place < len(self._recording.cuts):
            self.failure = f"it has {len(self._recording.cuts)} cuts, the evaluation as it is has {self._place}"
        if self.failure is not None:
            return float("nan")
        return float(torch.stack([*self._differences, _difference(self._recording.output, wanted)]).max())

    def _play(self) -> None:
        behind, ahead = self._recording.cuts[: self._place], self._recording.cuts[self._place :]
        begun = [cut.bucket for cut in behind if cut.bucket is not None]
        before = [(tensor, tensor.clone()) for cut in ahead if cut.bucket in begun for tensor in cut.sent]
        try:
            self._recording.pieces[self._place].replay()
        except RuntimeError as error:
            self.failure = first_line(error)
        self._filled = [(tensor, tensor.clone()) for tensor, _ in before]
        for tensor, value in before:
            tensor.copy_(value)


def _difference(found: Tensor, wanted: Tensor) -> Tensor:
    """Largest difference where both are not the same, relative to the largest finite value.

    What is infinite or no number in both is the same: an image that overflows is no fault of the recording.
    """
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    apart = torch.where(same, 0.0, (found.float() - wanted.float()).abs())
    largest = torch.where(wanted.isfinite(), wanted.float().abs(), 0.0).max()
    return apart.max() / largest.clamp_min(torch.finfo(torch.float32).tiny)


def first_line(error: BaseException) -> str:
    """An error in a line of a log."""
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
