"""Evaluations of one shape, recorded once and replayed, so that no kernel waits for Python.

An evaluation is recorded as pieces, cut wherever messages are posted or waited for. A replay runs piece after piece and
passes the cuts in between, so messages are the same, and in the same order, as those of an evaluation that Python runs:
ranks need not agree on who replays. Messages cross from one evaluation into the next as before.

Each kind of evaluation (synchronous or displaced, publishing or not) goes through three stages:

- the first one is evaluated as it is, which also makes whatever is made once;
- the second is recorded and evaluated as it is once more, and beside it the recording is played on the same inputs,
  piece by piece: what both send at every cut, and what both predict, is compared;
- from then on it is replayed, if both were the same up to rounding.

What cannot be recorded, or plays differently, is evaluated as it is for as long as the shape is kept.
"""

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distri.ranks.buckets import Cut, Scratch
from distri.ranks.cuda_graphs import CudaGraphRecorder
from distri.ranks.exchange import Exchange
from distri.ranks.operator_lists import OperatorRecorder
from distri.ranks.phase import Evaluation
from distri.ranks.recorder import Recorder, Replay
from distri.ranks.recording import Comparison, Recording, first_line
from distri.ranks.spans import Spans

REPLAY = "replay"  # the track of a trace that says what was recorded
TOLERANCE = 1e-5  # relative to the largest value; in half precision four roundings, which are more

log = logging.getLogger(__name__)

Compute = Callable[..., Tensor]


def recorder_of(replay: Replay, device: torch.device, *, alone: Callable[[], object] = lambda: None) -> Recorder | None:
    """What records on a device, or None for nothing; `alone`: see `CudaGraphRecorder`."""
    if replay is Replay.OPERATORS:
        return OperatorRecorder()
    return CudaGraphRecorder(device, alone=alone) if replay is Replay.AUTO and device.type == "cuda" else None


@dataclass
class _Kind:
    """How far one kind of evaluation has come."""

    recording: Recording | None = None
    refused: bool = False


@dataclass
class Replays:
    """The recordings of one shape.

    Args:
        shape: as logs and traces name it.
        exchange: the shape's.
        recorder: of this device; None evaluates everything as it is.
        spans: where the trace is noted.
        make_room: drops recordings of other shapes, and says whether there were any.
    """

    shape: str
    exchange: Exchange
    recorder: Recorder | None
    spans: Spans
    make_room: Callable[[], bool] = lambda: False
    _kinds: dict[Hashable, _Kind] = field(default_factory=dict)
    _scratch: Scratch = field(default_factory=Scratch)
    _refused: bool = False

    def evaluate(
        self, evaluation: Evaluation, inputs: Sequence[Tensor], compute: Compute, *, reads: Hashable = None
    ) -> Tensor:
        """What `compute(*inputs)` gives, by a replay if there is one. Blocks where the evaluation does.

        Args:
            evaluation: what `compute` does; with the inputs' shapes and `reads` it decides which recording is which.
            inputs: all that may have another place at every evaluation.
            compute: the evaluation as it is. What it reads besides stays at its place as long as the shape is kept;
                a `compute` that synchronises is not recorded.
            reads: what of that the evaluation reads, if there is more than one possibility.
        """
        if self.recorder is None:
            return compute(*inputs)
        key = (evaluation, reads, *((tuple(value.shape), value.dtype) for value in inputs))
        kind = self._kinds.get(key)
        if kind is not None and kind.recording is not None:
            found = self._tried(partial(kind.recording.replay, inputs))
            return self._as_it_is(inputs, compute) if found is None else found
        if kind is None:
            self._kinds[key] = _Kind()
        elif not (kind.refused or self._refused):
            return self._record_and_compare(self.recorder, evaluation, kind, inputs, compute)
        return self._as_it_is(inputs, compute)

    @property
    def count(self) -> int:
        """How many kinds of evaluations are replayed."""
        return sum(kind.recording is not None for kind in self._kinds.values())

    def release(self) -> None:
        """Drop all recordings. None may be in progress."""
        for kind in self._kinds.values():
            if kind.recording is not None:
                kind.recording.release()
                kind.recording = None
        self._kinds.clear()
        self._scratch = Scratch()

    def _as_it_is(self, inputs: Sequence[Tensor], compute: Compute) -> Tensor:
        while True:
            found = self._tried(partial(compute, *inputs))
            if found is not None:
                return found

    def _tried(self, work: Callable[[], Tensor]) -> Tensor | None:
        """What work gives; None if memory ran out, and there is more of it now. What the work held is free by then."""
        try:
            return work()
        except torch.OutOfMemoryError as error:
            # With peers it cannot be done again: some of its messages have been sent.
            if self.exchange.axis.size > 1 or not self._drop(first_line(error)):
                raise
        return None

    def _drop(self, reason: str) -> bool:
        """Drop recordings for an evaluation: those of other shapes, or else its own; whether there were any."""
        if self.make_room():
            return True
        if not self.count:
            return False
        self.release()
        self._refused = True
        log.info("recordings of %s are dropped to evaluate it: %s", self.shape, reason)
        return True

    def _record_and_compare(
        self, recorder: Recorder, evaluation: Evaluation, kind: _Kind, inputs: Sequence[Tensor], compute: Compute
    ) -> Tensor:
        found = self._recorded_and_compared(recorder, evaluation, kind, inputs, compute)
        return self._as_it_is(inputs, compute) if found is None else found

    def _recorded_and_compared(
        self, recorder: Recorder, evaluation: Evaluation, kind: _Kind, inputs: Sequence[Tensor], compute: Compute
    ) -> Tensor | None:
        """What the evaluation as it is gives, beside its recording; None if it has not come to its end."""
        began_ns = time.monotonic_ns()
        recording = self._record(recorder, evaluation, inputs, compute)
        if recording is None:
            return None
        recorded_ns = time.monotonic_ns()
        comparison = Comparison(recording)
        wanted: Tensor | None = None
        difference = float("nan")
        try:
            with self.exchange.cut_by(comparison.at_cut):
                comparison.begin(inputs)
                wanted = compute(*inputs)
        except torch.OutOfMemoryError as error:
            reason: str | None = first_line(error)
            if self.exchange.axis.size > 1:
                raise
        else:
            difference, reason = comparison.difference(wanted), comparison.failure
            most = max(TOLERANCE, 4 * torch.finfo(wanted.dtype).eps)
            if reason is None and not difference <= most:
                reason = f"a replay differs by {difference:.2g} of the largest value, {most:.2g} is allowed"
        if reason is not None:
            kind.refused = True
            recording.release()
        else:
            kind.recording = recording
        self._note(evaluation, began_ns, recorded_ns, reason, pieces=len(recording.pieces), difference=difference)
        return wanted

    def _record(
        self, recorder: Recorder, evaluation: Evaluation, inputs: Sequence[Tensor], compute: Compute
    ) -> Recording | None:
        """The evaluation as pieces; None if it cannot be recorded. Sends nothing and changes nothing."""
        began_ns = time.monotonic_ns()
        self.exchange.drain()  # nothing that is in flight lies in memory that a recorder may have to put back
        while True:
            try:
                return self._as_pieces(recorder, inputs, compute)
            except Exception as error:  # noqa: BLE001 - whatever it is, the evaluation as it is raises it again or not
                no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
                reason = first_line(error)
            if not (no_memory and self.make_room()):
                break
            log.info("recordings of other shapes are dropped to record %s: %s", self.shape, reason)
        self._refused = True
        if no_memory:
            self.release()
        self._note(evaluation, began_ns, time.monotonic_ns(), reason)
        return None

    def _as_pieces(self, recorder: Recorder, inputs: Sequence[Tensor], compute: Compute) -> Recording:
        if not self.count:
            self._scratch = Scratch()  # in the memory of the recordings that use it
        cuts: list[Cut] = []
        own = tuple(value.clone() for value in inputs)
        with recorder.record() as tape:

            def at_cut(cut: Cut) -> None:
                cuts.append(cut)
                tape.cut()

            with self.exchange.cut_by(at_cut, self._scratch):
                output = compute(*own)
        return Recording(own, tape.pieces, cuts, output)

    def _note(self, evaluation: Evaluation, began_ns: int, recorded_ns: int, reason: str | None, **detail: Any) -> None:
        """Say what became of a recording, in the log and in the trace."""
        what = f"{evaluation.name} evaluations{', publishing,' if evaluation.publish else ''} of {self.shape}"
        held_bytes = 0 if self.recorder is None else self.recorder.held_bytes
        if reason is None:
            log.info("%s are replayed from now on (%s pieces)", what, detail["pieces"])
        else:
            log.warning("%s are not replayed: %s", what, reason)
        self.spans.add(
            "record",
            began_ns,
            recorded_ns,
            track=REPLAY,
            shape=self.shape,
            phase=evaluation.name,
            publish=evaluation.publish,
            refused=reason,
            held_bytes=held_bytes,
            **detail,
        )
