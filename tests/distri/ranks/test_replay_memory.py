"""What recordings weigh, and what becomes of them where memory is short."""

import gc
import logging
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from distri.layers.unet import SplitUNet
from distri.ranks.kept_shapes import KeptShapes
from distri.ranks.mesh import Mesh
from distri.ranks.operator_lists import OperatorRecorder
from distri.ranks.phase import EXACT
from distri.ranks.recorder import Recorder, Tape
from distri.ranks.recording import Recording
from distri.ranks.spans import Span, Spans
from tests.distri.ranks.test_replay import Pass
from tests.distri.ranks.test_replay import _evaluated as evaluated
from tests.distri.ranks.test_replay import _network as network_of_all_layers

ALONE = Mesh.single().patch


def _compared(images: Sequence[Pass], recorder: Recorder) -> tuple[bool, list[Span]]:
    """Whether one rank's evaluations are those of a network that is never recorded; and what was recorded."""
    spans = Spans()
    found = evaluated(
        SplitUNet(network_of_all_layers(), shapes=KeptShapes(1 << 30, recorder), spans=spans), ALONE, images
    )
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
    unet = SplitUNet(network, shapes=KeptShapes(1 << 30, recorder))
    small, large = Pass(1, (EXACT,) * 3), Pass(2, (EXACT,), height=32)
    outputs = evaluated(unet, ALONE, [small, large])
    assert unet.shapes.recordings == 0
    plain = evaluated(SplitUNet(network_of_all_layers()), ALONE, [small, large])
    assert all(torch.equal(one, other) for one, other in zip(outputs, plain, strict=True))


@pytest.mark.parametrize("turn", [3, 4])
def test_memory_that_runs_out_while_a_recording_is_compared_costs_the_recording_alone(turn: int) -> None:
    """A layer is called by the first evaluation, to record, and to compare; the fourth call is that after it."""
    network, calls = network_of_all_layers(), list[None]()

    def runs_out(_: nn.Module, __: object, out: Tensor) -> Tensor:
        calls.append(None)
        if len(calls) == turn:
            raise torch.OutOfMemoryError("no room")
        return out

    network.mid_block.resnets[0].conv1.register_forward_hook(runs_out)
    spans, image = Spans(), Pass(1, (EXACT,) * 5)
    unet = SplitUNet(network, shapes=KeptShapes(1 << 30, OperatorRecorder()), spans=spans)
    found = evaluated(unet, ALONE, [image])
    plain = evaluated(SplitUNet(network_of_all_layers()), ALONE, [image])
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
    refused = [record.detail["refused"] for record in spans]
    assert refused == (["OutOfMemoryError: no room"] if turn == 3 else [None])


def test_memory_that_runs_out_in_a_replay_costs_the_recordings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    replay, replays = Recording.replay, list[None]()

    def runs_out(recording: Recording, inputs: Sequence[Tensor]) -> Tensor:
        replays.append(None)
        if len(replays) == 2:
            raise torch.OutOfMemoryError("no room")
        return replay(recording, inputs)

    monkeypatch.setattr(Recording, "replay", runs_out)
    unet, image = (
        SplitUNet(network_of_all_layers(), shapes=KeptShapes(1 << 30, OperatorRecorder())),
        Pass(1, (EXACT,) * 6),
    )
    found = evaluated(unet, ALONE, [image])
    plain = evaluated(SplitUNet(network_of_all_layers()), ALONE, [image])
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
    assert (len(replays), unet.shapes.recordings) == (2, 0)


@pytest.mark.parametrize("turn", [1, 3])
def test_what_ran_out_of_memory_is_free_when_it_is_done_again(turn: int) -> None:
    """As it is, and beside its recording: nothing of the first try may be held by its error."""
    network, calls, held = network_of_all_layers(), list[None](), list[weakref.ref[Tensor]]()
    small = Pass(1, (EXACT,) * 3)
    unet = SplitUNet(network, shapes=KeptShapes(1 << 30, OperatorRecorder()))
    evaluated(unet, ALONE, [small])

    def runs_out(_: nn.Module, __: object, out: Tensor) -> Tensor:
        calls.append(None)
        if len(calls) == turn:
            held.append(weakref.ref(out))
            raise torch.OutOfMemoryError("no room")
        assert not [ref for ref in held if ref() is not None]
        return out

    network.mid_block.resnets[0].conv1.register_forward_hook(runs_out)
    gc.collect()
    gc.disable()
    try:
        evaluated(unet, ALONE, [Pass(2, (EXACT,) * 4, height=32)])
    finally:
        gc.enable()
    assert len(held) == 1


def test_what_is_dropped_for_another_network_is_held_by_nobody() -> None:
    shapes = KeptShapes(1, OperatorRecorder())
    first, second = (SplitUNet(network_of_all_layers(), shapes=shapes) for _ in range(2))
    evaluated(first, ALONE, [Pass(1, (EXACT,) * 3)])
    [kept] = shapes._by_shape.values()
    exchange = weakref.ref(kept.exchange)
    del kept
    evaluated(second, ALONE, [Pass(1, (EXACT,) * 3)])
    gc.collect()
    assert exchange() is None


def test_networks_that_share_what_they_keep_have_each_their_own_recordings() -> None:
    shapes = KeptShapes(1 << 30, OperatorRecorder())
    image = Pass(1, (EXACT,) * 4)
    networks = [network_of_all_layers(), network_of_all_layers()]
    with torch.no_grad():
        networks[1].conv_out.weight.mul_(2)
    wanted = []
    for one in networks:
        alone = SplitUNet(one)
        wanted += evaluated(alone, ALONE, [image])
        alone.remove()
    found = [out for one in networks for out in evaluated(SplitUNet(one, shapes=shapes), ALONE, [image])]
    assert shapes.recordings == 2
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_recordings_weigh_what_they_hold() -> None:
    recorder = OperatorRecorder()
    unet = SplitUNet(network_of_all_layers(), shapes=KeptShapes(1 << 40, recorder))
    evaluated(unet, ALONE, [Pass(1, (EXACT,))])
    before = unet.shapes.weight_bytes
    evaluated(unet, ALONE, [Pass(1, (EXACT,) * 2)])
    assert unet.shapes.weight_bytes == before + recorder.held_bytes > before
    unet.shapes._most_bytes = before + recorder.held_bytes // 2
    evaluated(unet, ALONE, [Pass(2, (EXACT,), height=32)])
    assert (unet.shapes.recordings, recorder.held_bytes) == (0, 0)
