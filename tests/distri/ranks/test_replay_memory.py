"""What recordings weigh, and what becomes of them where memory is short."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from distri.layers.unet import SplitUNet
from distri.ranks.mesh import Mesh
from distri.ranks.operator_lists import OperatorRecorder
from distri.ranks.phase import EXACT
from distri.ranks.recorder import Recorder, Tape
from distri.ranks.spans import Span, Spans
from tests.distri.ranks.test_replay import Pass
from tests.distri.ranks.test_replay import _evaluated as evaluated
from tests.distri.ranks.test_replay import _network as network_of_all_layers

ALONE = Mesh.single().patch


def _compared(images: Sequence[Pass], recorder: Recorder) -> tuple[bool, list[Span]]:
    """Whether one rank's evaluations are those of a network that is never recorded; and what was recorded."""
    spans = Spans()
    found = evaluated(SplitUNet(network_of_all_layers(), recorder=recorder, spans=spans), ALONE, images)
    wanted = evaluated(SplitUNet(network_of_all_layers()), ALONE, images)
    return all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True)), list(spans)


class Cramped(OperatorRecorder):
    """Has room for the recordings of one shape, and of another if nothing else is held."""

    room = 0

    @contextmanager
    def record(self) -> Iterator[Tape]:
        with super().record() as tape:
            yield tape
            if self.held_bytes > self.room:
                raise torch.OutOfMemoryError("no room")


def test_recordings_of_other_shapes_make_room_for_one_that_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    exact = (EXACT,) * 3
    small, large = Pass(1, exact), Pass(2, exact, height=32)
    images = [small, large, small, replace(large, seed=3)]
    with caplog.at_level(logging.INFO):
        same, records = _compared(images, Cramped())
    assert same
    # Large dropped what there was of small, which was recorded anew and dropped what there was of large.
    assert [record.detail["refused"] for record in records] == [None] * 4
    assert sum("are dropped to record" in one.getMessage() for one in caplog.records) == 3


def test_a_recording_that_fits_beside_none_is_given_up_and_not_tried_again() -> None:
    recorder = Cramped()
    recorder.room = -1
    same, records = _compared([Pass(1, (EXACT,) * 4)], recorder)
    assert (same, recorder.held_bytes) == (True, 0)
    assert [record.detail["refused"] for record in records] == ["OutOfMemoryError: no room"]


def test_an_evaluation_that_finds_no_memory_beside_recordings_is_done_again_without_them() -> None:
    network, recorder = network_of_all_layers(), OperatorRecorder()

    def greedy(_: nn.Module, __: object, out: Tensor) -> Tensor:
        if out.shape[2] == 16 and recorder.held_bytes:
            raise torch.OutOfMemoryError("no room")
        return out

    network.mid_block.resnets[0].conv1.register_forward_hook(greedy)
    unet = SplitUNet(network, recorder=recorder)
    small, large = Pass(1, (EXACT,) * 3), Pass(2, (EXACT,), height=32)
    outputs = evaluated(unet, ALONE, [small, large])
    assert unet.shapes.recordings == 0
    plain = evaluated(SplitUNet(network_of_all_layers()), ALONE, [small, large])
    assert all(torch.equal(one, other) for one, other in zip(outputs, plain, strict=True))


def test_recordings_weigh_what_they_hold() -> None:
    recorder = OperatorRecorder()
    unet = SplitUNet(network_of_all_layers(), recorder=recorder, kept_bytes=1 << 40)
    evaluated(unet, ALONE, [Pass(1, (EXACT,))])
    before = unet.shapes.weight_bytes
    evaluated(unet, ALONE, [Pass(1, (EXACT,) * 2)])
    assert unet.shapes.weight_bytes == before + recorder.held_bytes > before
    unet.shapes._most_bytes = before + recorder.held_bytes // 2
    evaluated(unet, ALONE, [Pass(2, (EXACT,), height=32)])
    assert (unet.shapes.recordings, recorder.held_bytes) == (0, 0)
