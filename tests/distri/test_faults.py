"""A rank that is killed or stopped in the middle of an image ends the others in time, and they say which it was."""

import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from queue import Queue
from unittest import mock

import pytest
import torch
from torch import Tensor

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.ranks.errors import PeerLost
from distri.ranks.mesh import Layout, Mesh
from distri.ranks.recorder import Replay
from distri.ranks.recording import Recording
from distri.sampling.control import Control
from tests.distri.pool import Ranks
from tests.distri.ranks.test_progress import Device

TIMEOUT_S, GRACE_S = 4.0, 4.0  # the grace is no longer than the timeout
BUSY_S = 20.0  # what a busy machine may add; who is not missed waits for a minute
IMAGE = ImageSpec("a cat", None, seed=7, width=128, height=128, steps=6, guidance_scale=5.0)


@pytest.fixture
def pool() -> Iterator[Ranks]:
    ranks = Ranks(3)
    yield ranks
    ranks.stop()


def _render(model_dir: Path, victim: int, what: signal.Signals, warmup: int) -> tuple[object, str, float]:
    """Render until the victim does itself harm in its fourth evaluation; who is missing, why, and how long it took."""
    mesh = Mesh.join(Layout.parse("1x1x3"), device="cpu", timeout=timedelta(seconds=TIMEOUT_S))
    engine = Engine.load(model_dir, mesh, dtype=torch.float32, settings=EngineSettings(warmup=warmup))
    evaluations, began = 0, time.monotonic()

    def harm(*_: object) -> None:
        nonlocal evaluations, began
        evaluations += 1
        began = time.monotonic()
        if evaluations == 4 and mesh.rank == victim:
            os.kill(os.getpid(), what)

    engine._parts.unet.unet.register_forward_pre_hook(harm)
    with pytest.raises(PeerLost) as caught:
        engine.render(IMAGE, control=lambda: Control.GO)
    return caught.value.missing, str(caught.value), time.monotonic() - began


@pytest.mark.parametrize(
    ("victim", "what", "warmup"),
    [(1, signal.SIGKILL, 2), (2, signal.SIGSTOP, 6), (1, signal.SIGSTOP, 2)],
    ids=["killed while displaced", "stopped while waiting", "stopped while displaced"],
)
def test_the_others_end_in_time_and_name_the_missing_rank(
    pool: Ranks, model_dir: Path, victim: int, what: signal.Signals, warmup: int
) -> None:
    pool.ask(_render, model_dir, victim, what, warmup)
    for rank in {0, 1, 2} - {victim}:
        good, answer = pool.answer(rank, timeout_s=300)
        assert good, answer
        missing, message, took_s = answer
        # A rank that waits for one of us, who already answers the roll call, may not have noticed yet.
        assert victim in missing
        assert rank not in missing
        assert re.search(rf"no sign from .*\b{victim}\b", message)
        assert took_s < TIMEOUT_S + GRACE_S + BUSY_S


def _replay(model_dir: Path, victim: int, how: str, warmup: int) -> tuple[object, str, float, int]:
    """Render by replays until the victim is harmed between two pieces of one; as `_render`, and how many had begun."""
    mesh = Mesh.join(Layout.parse("1x1x2"), device="cpu", timeout=timedelta(seconds=TIMEOUT_S))
    settings = EngineSettings(warmup=warmup, replay=Replay.OPERATORS)
    engine = Engine.load(model_dir, mesh, dtype=torch.float32, settings=settings)
    replays, began, replay = 0, time.monotonic(), Recording.replay

    def harmed(self: Recording, inputs: Sequence[Tensor]) -> Tensor:
        nonlocal replays, began
        replays += 1
        began = time.monotonic()
        if mesh.rank != victim or replays < 2:
            return replay(self, inputs)
        self.fill(inputs)
        for piece, cut in zip(self.pieces[: len(self.pieces) // 2], self.cuts, strict=False):
            piece.replay()
            cut.act()
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("out of luck")

    with mock.patch.object(Recording, "replay", harmed), pytest.raises(PeerLost) as caught:
        engine.render(IMAGE, control=lambda: Control.GO)
    return caught.value.missing, str(caught.value), time.monotonic() - began, replays


@pytest.mark.parametrize(("how", "warmup"), [("killed", 1), ("raises", 6)], ids=["displaced", "synchronous"])
def test_a_rank_that_fails_between_two_pieces_of_a_replay_ends_the_other_in_time(
    model_dir: Path, how: str, warmup: int
) -> None:
    pool = Ranks(2)
    try:
        pool.ask(_replay, model_dir, 1, how, warmup)
        good, answer = pool.answer(0, timeout_s=300)
        assert good, answer
        missing, message, took_s, replays = answer
        assert missing == (1,)
        assert re.search(r"\b1\b", message)
        assert replays == 2  # it was in one itself, and gave no picture
        assert took_s < TIMEOUT_S + GRACE_S + BUSY_S
        if how == "raises":
            good, traceback = pool.answer(1, timeout_s=300)
            assert not good
            assert "ValueError: out of luck" in traceback
    finally:
        pool.stop()


def _fail(model_dir: Path) -> tuple[object, ...] | None:
    mesh = Mesh.join(Layout.parse("1x1x3"), device="cpu", timeout=timedelta(seconds=TIMEOUT_S))
    if mesh.rank == 1:
        raise ValueError("out of luck")
    with pytest.raises(PeerLost) as caught:
        Engine.load(model_dir, mesh, dtype=torch.float32, settings=EngineSettings()).render(
            IMAGE, control=lambda: Control.GO
        )
    return caught.value.missing


def test_a_rank_that_raises_is_missed_by_the_others_and_has_the_reason(pool: Ranks, model_dir: Path) -> None:
    pool.ask(_fail, model_dir)
    for rank in (0, 2):
        answered, missing = pool.answer(rank, timeout_s=300)
        assert answered
        assert 1 in missing
    good, traceback = pool.answer(1, timeout_s=300)
    assert not good
    assert "ValueError: out of luck" in traceback


def _hang(victim: int, how: str) -> tuple[object, str, float]:
    """What this rank's own thread notices when the victim hangs and nothing raises."""
    found: Queue[PeerLost] = Queue()
    timeout = timedelta(seconds=TIMEOUT_S)
    mesh = Mesh.join(Layout.parse("1x1x3"), device="cpu", timeout=timeout, on_lost=found.put)
    began = time.monotonic()
    progress, device = mesh.progress, Device()
    if mesh.rank != victim:
        with progress.waiting("a message that never comes"):
            error = found.get(timeout=300)
        return error.missing, str(error), time.monotonic() - began
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "in a kernel":
        progress._make_mark = device.mark
        with progress.evaluation("evaluation 2 of 4"):
            pass
    while found.empty():  # a program that comes to no message
        sum(range(1000))
    error = found.get()
    return error.missing, str(error), time.monotonic() - began


@pytest.mark.parametrize(
    ("victim", "how", "words"),
    [
        (2, "stopped", "no sign from 2: dead or stopped"),
        (1, "in a kernel", "1 hangs in its GPU, at evaluation 2 of 4"),
        (0, "in its program", "0 hangs in its program"),
    ],
)
def test_a_hang_that_raises_nothing_is_noticed_by_threads_within_the_timeout(
    pool: Ranks, victim: int, how: str, words: str
) -> None:
    pool.ask(_hang, victim, how)
    for rank in {0, 1, 2} - ({victim} if how == "stopped" else set()):
        good, answer = pool.answer(rank, timeout_s=300)
        assert good, answer
        missing, message, took_s = answer
        assert missing == (victim,)
        assert words in message
        assert took_s < TIMEOUT_S + BUSY_S
