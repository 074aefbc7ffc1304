"""Replayed evaluations against those that Python runs, bit for bit, and message for message."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from distri.layers.conditions import Conditions
from distri.layers.unet import SplitUNet
from distri.ranks import p2p
from distri.ranks.buckets import Cut
from distri.ranks.kept_shapes import KeptShapes
from distri.ranks.mesh import Axis, Mesh
from distri.ranks.operator_lists import OperatorRecorder
from distri.ranks.phase import EXACT, Evaluation, NormMode, Phase
from distri.ranks.recorder import Tape
from distri.ranks.recording import Comparison, Recording
from distri.ranks.spans import Span, Spans
from tests.distri import networks, on_ranks
from tests.distri.networks import seeded
from tests.distri.pool import Ranks

GetRanks = Callable[[int], Ranks]
PUBLISHING = Evaluation(Phase.SYNCHRONOUS, publish=True)
DISPLACED = Evaluation(Phase.DISPLACED, publish=True)
LAST = Evaluation(Phase.DISPLACED, publish=False)
# Keys and values alone are displaced, up to one that publishes the rest, too.
BEGUN = Evaluation(Phase.SYNCHRONOUS, publish=True, rest=EXACT)
SETTLING = Evaluation(Phase.DISPLACED, publish=True, rest=EXACT)
SETTLED = Evaluation(Phase.DISPLACED, publish=True, rest=PUBLISHING)
PASS = (EXACT, PUBLISHING, DISPLACED, DISPLACED, LAST)
RESYNC = (EXACT, PUBLISHING, DISPLACED, LAST, EXACT, PUBLISHING, DISPLACED, LAST)
PAUSED = (EXACT, PUBLISHING, DISPLACED)  # messages are in flight when it ends


@dataclass(frozen=True)
class Pass:
    """One image, or several as a batch."""

    seed: int
    evaluations: tuple[Evaluation, ...] = PASS
    batch: int = 1
    height: int = 24
    width: int = 16
    text_tokens: int = networks.TEXT_TOKENS
    times: str = "float32"

    def conditions(self) -> Conditions:
        return Conditions(
            seeded(self.seed, self.batch, self.text_tokens, networks.TEXT_WIDTH, dtype=torch.float32),
            seeded(self.seed + 1, self.batch, networks.POOLED_WIDTH, dtype=torch.float32),
            torch.tensor([[64.0 + self.seed, 48.0, 0.0, 8.0, 64.0, 48.0]] * self.batch),
        )

    def latent(self, step: int) -> Tensor:
        first, change = (
            seeded(self.seed + 10 * more, self.batch, 4, self.height, self.width, dtype=torch.float32)
            for more in (1, 2)
        )
        return first + 0.05 * step * change

    def time(self, step: int) -> Any:
        return torch.tensor(501.25 - 20 * step, dtype=getattr(torch, self.times)) if self.times else 501 - 20 * step


# Another prompt, seed, size told to the model, and scheduler (whose timesteps are of another type): nothing new.
IMAGES = [Pass(1), Pass(2, PAUSED, times="int64"), Pass(3, RESYNC, times="float64"), Pass(4, times="")]


def _network() -> Any:
    """The smallest UNet that has every kind of layer."""
    torch.manual_seed(1)
    network: Any = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=networks.TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + networks.POOLED_WIDTH,
    )
    return network.eval().requires_grad_(False)


Log = list[tuple[str, tuple[tuple[int, int, int], ...]]]


@contextmanager
def _logged() -> Iterator[Log]:
    """What is posted (peer, bytes and tag of each message) and when it is waited for."""
    log: Log = []
    post, finish = p2p.post, p2p.finish

    def logged_post(axis: Axis, sends: Sequence[p2p.Message], receives: Sequence[p2p.Message]) -> list[Any]:
        messages = tuple((one.peer, one.tensor.nbytes, one.tag) for one in (*sends, *receives))
        log.append(("post", messages))
        return post(axis, sends, receives)

    def logged_finish(axis: Axis, pending: Sequence[Any]) -> None:
        if pending:
            log.append(("wait", ()))
        finish(axis, pending)

    with mock.patch.object(p2p, "post", logged_post), mock.patch.object(p2p, "finish", logged_finish):
        yield log


@torch.inference_mode()
def _evaluated(unet: SplitUNet, axis: Axis, images: Sequence[Pass]) -> list[Tensor]:
    outputs = []
    for image in images:
        unet.begin(image.conditions(), axis, image.height, image.width)
        outputs += [
            unet(image.latent(step), image.time(step), evaluation) for step, evaluation in enumerate(image.evaluations)
        ]
        unet.end()
    return outputs


@dataclass(frozen=True)
class Answer:
    """One rank's side: replays against the evaluations as they are."""

    same: bool
    messages: bool
    records: list[Span]
    replayed: int
    log: Log


def _compare(
    images: Sequence[Pass],
    make: Callable[[], OperatorRecorder] = OperatorRecorder,
    *,
    kept_bytes: int = 1 << 30,
    **settings: Any,
) -> Answer:
    axis = on_ranks.mesh().patch
    with _logged() as log:
        wanted = _evaluated(SplitUNet(_network(), shapes=KeptShapes(kept_bytes), **settings), axis, images)
        eager_log = log.copy()
        log.clear()
        spans = Spans()
        unet = SplitUNet(_network(), shapes=KeptShapes(kept_bytes, make()), spans=spans, **settings)
        with _counted() as replays:
            found = _evaluated(unet, axis, images)
    same = all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    return Answer(same, _order(log) == _order(eager_log), list(spans), len(replays), log)


def _order(log: Log) -> tuple[Log, int]:
    """What is posted, in its order, and how often is waited: earlier where something is recorded."""
    posts = [(kind, messages) for kind, messages in log if kind == "post"]
    return posts, len(log) - len(posts)


@contextmanager
def _counted() -> Iterator[list[int]]:
    """How many evaluations were replays."""
    from distri.ranks.recording import Recording

    whole: list[int] = []
    replay = Recording.replay

    def counted(self: Recording, inputs: Sequence[Tensor]) -> Tensor:
        whole.append(len(self.pieces))
        return replay(self, inputs)

    with mock.patch.object(Recording, "replay", counted):
        yield whole


def _recorded(answer: Answer) -> list[tuple[str, bool]]:
    return [(one.detail["phase"], one.detail["publish"]) for one in answer.records if one.detail["refused"] is None]


@pytest.mark.parametrize(
    ("count", "batch", "mode"),
    [(2, 1, NormMode.SYNCHRONOUS), (2, 2, NormMode.CORRECTED), (3, 1, NormMode.CORRECTED)],
)
def test_replays_are_the_evaluations_as_they_are_bit_for_bit(
    ranks: GetRanks, count: int, batch: int, mode: NormMode
) -> None:
    images = [replace(image, batch=batch) for image in IMAGES]
    for answer in ranks(count).run(_run, images, mode):
        assert answer.same
        assert answer.messages
        # Every kind is recorded when it comes for the second time, once, whatever image it is of.
        assert _recorded(answer) == [
            ("displaced", True), ("synchronous", False), ("synchronous", True), ("displaced", False)
        ]  # fmt: skip
        assert [one.detail["difference"] for one in answer.records] == [0.0] * 4
        total = sum(len(image.evaluations) for image in images)
        assert answer.replayed == total - 2 * 4


def _run(images: Sequence[Pass], mode: NormMode) -> Answer:
    return _compare(images, norm_mode=mode)


@pytest.mark.parametrize("count", [2, 3])
def test_images_that_settle_are_replayed_bit_for_bit(ranks: GetRanks, count: int) -> None:
    whole = (BEGUN, SETTLING, SETTLING, SETTLED, DISPLACED, LAST)
    paused, resynced = (BEGUN, SETTLING), (BEGUN, SETTLING.last(), *whole, EXACT, PUBLISHING, DISPLACED, LAST)
    images = [Pass(1, whole), Pass(2, paused), Pass(3, resynced), Pass(4, whole, height=32), Pass(5, whole)]
    for answer in ranks(count).run(_compare, images):
        assert (answer.same, answer.messages) == (True, True)
        assert {name for name, _ in _recorded(answer)} == {"synchronous", "displaced keys and values", "displaced"}
        assert [one.detail["difference"] for one in answer.records] == [0.0] * len(answer.records)
        kinds = set(resynced)
        seen = Counter(one for image in images if image.height == 24 for one in image.evaluations)
        assert len(answer.records) == sum(seen[kind] > 1 for kind in kinds) + 1  # SETTLING of the other shape
        assert answer.replayed == sum(max(0, seen[kind] - 2) for kind in kinds)


def test_a_displaced_evaluation_is_cut_where_its_buckets_leave_and_arrive(ranks: GetRanks) -> None:
    for answer in ranks(2).run(_compare, [Pass(1), Pass(2), Pass(3)]):
        pieces = {(one.detail["phase"], one.detail["publish"]): one.detail["pieces"] for one in answer.records}
        posts = pieces["displaced", False] - 1  # as many waits, and nothing leaves
        assert pieces["displaced", True] == 2 * posts + 1
        assert pieces["synchronous", True] == pieces["synchronous", False] > pieces["displaced", True]
        # The last evaluation but one, a replay: every bucket is waited for, then sent, while one of the other kind of
        # tensors may be under way; the last one only waits.
        kinds = [kind for kind, _ in answer.log][-3 * posts :]
        assert kinds[2 * posts :] == ["wait"] * posts
        ahead = list(accumulate(1 if kind == "wait" else -1 for kind in kinds[: 2 * posts]))
        assert ahead[-1] == 0
        assert set(ahead) <= {0, 1, 2}


def test_exact_evaluations_alone_are_replayed_too(ranks: GetRanks) -> None:
    for answer in ranks(3).run(_compare, [Pass(seed, (EXACT,) * 3) for seed in (1, 2)]):
        assert (answer.same, answer.messages, answer.replayed) == (True, True, 4)


def test_another_shape_and_back_and_a_longer_text_record_once_each(ranks: GetRanks) -> None:
    displaced = (PUBLISHING, DISPLACED, DISPLACED, DISPLACED)
    small, large = Pass(1, displaced), Pass(2, displaced, height=32)
    long = Pass(3, displaced, text_tokens=2 * networks.TEXT_TOKENS)
    for answer in ranks(2).run(_compare, [small, large, replace(small, seed=7), long, large, small, long]):
        assert (answer.same, answer.messages) == (True, True)
        assert len(_recorded(answer)) == 2 * 3
        assert answer.replayed == 7 * 4 - 2 * 2 * 3


def test_shapes_that_weigh_too_much_are_dropped_and_recorded_again(ranks: GetRanks) -> None:
    displaced = (PUBLISHING, DISPLACED, DISPLACED, DISPLACED)
    images = [Pass(1, displaced), Pass(2, displaced, height=32), Pass(3, displaced)]
    for answer in ranks(2).run(_kept_one, images):
        assert (answer.same, answer.messages) == (True, True)
        assert (len(_recorded(answer)), answer.replayed) == (3, 3)


def _kept_one(images: Sequence[Pass]) -> Answer:
    return _compare(images, kept_bytes=1)


@dataclass
class Breaking(OperatorRecorder):
    """Raises while the piece of this number is recorded; counted from the end if it is negative."""

    piece: int
    error: type[Exception]

    def __post_init__(self) -> None:
        super().__init__()

    @contextmanager
    def record(self) -> Iterator[Tape]:
        with super().record() as tape:
            if self.piece == 0:
                raise self.error("out of luck")
            yield _BreakingTape(tape, self)
            if self.piece < 0:
                raise self.error("out of luck")


class _BreakingTape:
    def __init__(self, tape: Tape, breaking: Breaking) -> None:
        self._tape, self._breaking = tape, breaking
        self.pieces = tape.pieces

    def cut(self) -> None:
        self._tape.cut()
        if len(self.pieces) == self._breaking.piece:
            raise self._breaking.error("out of luck")


def _break(images: Sequence[Pass], piece: int, error: type[Exception], rank: int | None) -> Answer:
    broken = rank is None or on_ranks.mesh().rank == rank
    return _compare(images, (lambda: Breaking(piece, error)) if broken else OperatorRecorder)


@pytest.mark.parametrize(
    ("piece", "error"), [(0, RuntimeError), (7, RuntimeError), (-1, RuntimeError), (7, torch.OutOfMemoryError)]
)
def test_a_recording_that_fails_leaves_no_trace_in_pictures_and_messages(
    ranks: GetRanks, piece: int, error: type[Exception]
) -> None:
    for answer in ranks(2).run(_break, [Pass(1), Pass(2)], piece, error, None):
        assert (answer.same, answer.messages, answer.replayed) == (True, True, 0)
        [record] = answer.records
        assert record.detail["refused"] == f"{error.__name__}: out of luck"


def test_a_rank_that_cannot_record_goes_on_beside_those_that_replay(ranks: GetRanks) -> None:
    answers = ranks(3).run(_break, IMAGES, 7, RuntimeError, 1)
    assert all(answer.same and answer.messages for answer in answers)
    assert [answer.replayed > 0 for answer in answers] == [True, False, True]


def _hooked(images: Sequence[Pass], hook: Callable[..., Any]) -> tuple[list[Tensor], list[Span], int]:
    """Evaluations of one rank whose network has a hook."""
    network, spans = _network(), Spans()
    network.mid_block.resnets[0].conv1.register_forward_hook(hook)
    unet = SplitUNet(network, shapes=KeptShapes(1 << 30, OperatorRecorder()), spans=spans)
    with _counted() as replays:
        outputs = _evaluated(unet, Mesh.single().patch, images)
    return outputs, list(spans), len(replays)


def _synchronise(_: nn.Module, __: object, out: Tensor) -> Tensor:
    return out * (1.0 if out.mean().item() > 100 else 0.5)


def test_a_module_that_synchronises_is_evaluated_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    images = [Pass(1, (EXACT,) * 3), Pass(2, (EXACT,) * 2)]
    with caplog.at_level(logging.INFO):
        outputs, [record], replayed = _hooked(images, _synchronise)
    assert replayed == 0
    assert "cannot be recorded" in record.detail["refused"]
    [line] = [one.getMessage() for one in caplog.records if one.name == "distri.ranks.replay"]
    assert line.startswith("synchronous evaluations of a latent of 24x16 are not replayed: RuntimeError: aten")
    network = _network()
    network.mid_block.resnets[0].conv1.register_forward_hook(_synchronise)
    wanted = _evaluated(SplitUNet(network), Mesh.single().patch, images)
    assert all(torch.equal(one, other) for one, other in zip(outputs, wanted, strict=True))


def test_what_plays_differently_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[None] = []

    def drift(_: nn.Module, __: object, out: Tensor) -> Tensor:
        calls.append(None)
        return out * (1 + 0.1 * len(calls))

    with caplog.at_level(logging.INFO):
        _, [record], replayed = _hooked([Pass(1, (EXACT,) * 5)], drift)
    assert replayed == 0
    assert record.detail["difference"] > 1e-3
    assert "differs by" in record.detail["refused"]
    [line] = [one.getMessage() for one in caplog.records if one.name == "distri.ranks.replay"]
    assert "are not replayed: a replay differs by" in line


def test_an_image_that_overflows_does_not_speak_against_a_recording() -> None:
    """Half precision runs over in one of several images, in the recording as well as in the evaluation as it is."""

    def overflows(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return torch.cat([out[:1] * float("nan"), out[1:]])

    _, [record], replayed = _hooked([Pass(1, (EXACT,) * 4, batch=2)], overflows)
    assert (record.detail["refused"], record.detail["difference"], replayed) == (None, 0.0, 2)


@pytest.mark.parametrize("output", [torch.ones(2, 3), torch.ones(7)])
def test_a_recording_of_another_shape_is_not_used_and_harms_no_evaluation(output: Tensor) -> None:
    comparison = Comparison(Recording((), [mock.Mock()], [], output))
    comparison.begin(())
    assert math.isnan(comparison.difference(torch.ones(3, 2)))
    assert comparison.failure is not None
    assert "(3, 2) are wanted" in comparison.failure


def test_what_cannot_be_compared_leaves_messages_as_they_are() -> None:
    """The recording sends one tensor where the evaluation sends two; the cut is passed all the same."""
    acted, sent = list[str](), (torch.ones(2), torch.ones(2))
    recorded = mock.Mock(spec=Cut, bucket=None, sent=sent[:1], received=())
    cut = mock.Mock(spec=Cut, bucket=None, sent=sent, received=(), act=lambda: acted.append("cut"))
    comparison = Comparison(Recording((), [mock.Mock(), mock.Mock()], [recorded], torch.ones(1)))
    comparison.begin(())
    comparison.at_cut(cut)
    assert acted == ["cut"]
    assert math.isnan(comparison.difference(torch.ones(1)))


def test_what_sends_differently_is_not_used(ranks: GetRanks) -> None:
    for answer in ranks(2).run(_sends_otherwise):
        assert answer.messages
        assert "differs by" in answer.records[0].detail["refused"]


def _sends_otherwise() -> Answer:
    """A convolution whose border rows, and nothing else, come out otherwise when they are recorded."""
    from distri.ranks.exchange import Exchange

    swap = Exchange.swap

    def other(self: Exchange, outgoing: Any, incoming: Any, *, like: Tensor) -> list[Tensor]:
        if self.scratch is not None:
            outgoing = [replace(out, tensor=out.tensor * 1.5) for out in outgoing]
        return swap(self, outgoing, incoming, like=like)

    with mock.patch.object(Exchange, "swap", other):
        return _compare([Pass(1, (EXACT,) * 3)])


def test_a_rounding_that_differs_is_used() -> None:
    calls: list[None] = []

    def jitter(_: nn.Module, __: object, out: Tensor) -> Tensor:
        calls.append(None)
        return out * (1 + 1e-6 * len(calls))

    _, [record], replayed = _hooked([Pass(1, (EXACT,) * 4)], jitter)
    assert (record.detail["refused"], replayed) == (None, 2)
    assert 0 < record.detail["difference"] < 1e-5


def test_a_network_without_its_layers_holds_no_recording() -> None:
    unet = SplitUNet(_network(), shapes=KeptShapes(1 << 30, OperatorRecorder()))
    _evaluated(unet, Mesh.single().patch, [Pass(1, (EXACT,) * 3)])
    unet.free()
    spans = Spans()
    unet._spans = spans
    _evaluated(unet, Mesh.single().patch, [Pass(1, (EXACT,) * 2)])
    assert len(list(spans)) == 1
    unet.remove()


def test_an_image_in_low_memory_is_neither_recorded_nor_replayed() -> None:
    spans = Spans()
    unet = SplitUNet(_network(), shapes=KeptShapes(1 << 30, OperatorRecorder()), spans=spans)
    image = Pass(1)
    with torch.inference_mode(), _counted() as replays:
        for replayed in (True, True, False):
            unet.begin(image.conditions(), Mesh.single().patch, image.height, image.width, replay=replayed)
            outputs = [unet(image.latent(0), image.time(0), EXACT) for _ in range(3)]
            unet.end()
    assert len(replays) == 1 + 3
    assert torch.equal(outputs[0], outputs[2])
