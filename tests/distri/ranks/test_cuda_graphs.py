"""Captures, their pool and their end, by torch's own rules without a GPU, and on one where there is one.

The rules are those of torch's CUDAGraph.cpp and of its allocators: a pool is counted by the captures that began in it,
nobody may begin in one that is being captured into or that all have left, and a capture that broke ends in neither
allocator.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from distri.ranks import cuda_graphs
from distri.ranks.cuda_graphs import CudaGraphRecorder

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
MIB = 1 << 20


class Allocators:
    """A GPU's memory as torch sees it: who captures into which pool, and what is left."""

    def __init__(self) -> None:
        self.pools = 0
        self.users: Counter[int] = Counter()
        self.left_by_all: set[int] = set()
        self.on_device: list[int] = []
        self.on_host: list[int] = []
        self.free_bytes, self.reserved_bytes = 1000 * MIB, 100 * MIB
        self.broken = False

    def new_pool(self) -> int:
        self.pools += 1
        return self.pools

    def take(self, pool_bytes: int, other_bytes: int = 0) -> None:
        """What a recording takes while it is made."""
        self.reserved_bytes += pool_bytes
        self.free_bytes -= pool_bytes + other_bytes

    def begin(self, pool: int) -> None:
        assert pool not in self.left_by_all
        self.users[pool] += 1
        assert pool not in self.on_device
        self.on_device.append(pool)
        if pool in self.on_host:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self.on_host.append(pool)

    def end_on_device(self, _: int, pool: int) -> None:
        if pool not in self.on_device:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.on_device.remove(pool)

    def leave(self, _: int, pool: int) -> None:
        assert self.users[pool] > 0
        self.users[pool] -= 1
        if not self.users[pool]:
            self.left_by_all.add(pool)


class Graph:
    """`torch.cuda.CUDAGraph`."""

    allocators: Allocators

    def __init__(self) -> None:
        self._in: int | None = None
        self._ended = False

    def capture_begin(self, *, pool: int, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        self._in = pool
        self.allocators.begin(pool)

    def capture_end(self) -> None:
        assert self._in is not None
        if self.allocators.broken:
            self.allocators.broken = False
            raise RuntimeError("operation failed due to a previous error during capture")
        self.allocators.end_on_device(0, self._in)
        self.allocators.on_host.remove(self._in)
        self._ended = True

    def pool(self) -> int:
        if not self._ended or self._in is None:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return self._in

    def reset(self) -> None:
        if self._ended:
            self.allocators.leave(0, self.pool())
        self._ended = False


@pytest.fixture
def allocators(monkeypatch: pytest.MonkeyPatch) -> Iterator[Allocators]:
    """No GPU: its calls, by the rules of torch."""
    fake = Allocators()
    monkeypatch.setattr(Graph, "allocators", fake, raising=False)
    monkeypatch.setattr(cuda_graphs, "_make_workspaces", lambda _: None)
    for name, value in {
        "CUDAGraph": Graph,
        "Stream": lambda _: None,
        "stream": nullcontext,
        "graph_pool_handle": fake.new_pool,
        "synchronize": lambda _: None,
        "empty_cache": lambda: None,
        "current_device": lambda: 0,
        "mem_get_info": lambda _: (fake.free_bytes, 2000 * MIB),
        "memory_reserved": lambda _: fake.reserved_bytes,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", fake.end_on_device, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", fake.leave, raising=False)
    yield fake
    assert fake.on_device == []  # else the allocator would go on serving a capture that is over


def _recorder() -> CudaGraphRecorder:
    return CudaGraphRecorder(torch.device("cuda", 0))


def _recorded(recorder: CudaGraphRecorder, allocators: Allocators, pool_bytes: int, other_bytes: int = 0) -> list[Any]:
    with recorder.record() as tape:
        tape.cut()
        allocators.take(pool_bytes, other_bytes)
    assert len(tape.pieces) == 2
    return tape.pieces


def _break(recorder: CudaGraphRecorder, allocators: Allocators) -> None:
    with recorder.record() as tape:
        tape.cut()
        allocators.broken = True
        raise ValueError("not while it is captured")


def _exhaust(recorder: CudaGraphRecorder, size_bytes: int) -> None:
    held = []
    with recorder.record():
        while True:
            held.append(torch.empty(size_bytes, dtype=torch.uint8, device="cuda"))


def _release(pieces: list[Any]) -> None:
    for piece in pieces:
        piece.release()


def test_recordings_share_a_pool_and_weigh_what_it_and_their_graphs_have_taken(allocators: Allocators) -> None:
    recorder = _recorder()
    first = _recorded(recorder, allocators, 200 * MIB, 10 * MIB)
    second = _recorded(recorder, allocators, 5 * MIB, 10 * MIB)
    assert allocators.pools == 1
    assert recorder.held_bytes == 225 * MIB
    _release(first)  # its graphs are gone, and its part of the pool serves others
    assert recorder.held_bytes == 215 * MIB
    _release(second)
    assert recorder.held_bytes == 0
    third = _recorded(recorder, allocators, MIB)
    assert (allocators.pools, recorder.held_bytes, len(third)) == (2, MIB, 2)


def test_a_piece_that_is_kept_after_its_release_holds_no_pool(allocators: Allocators) -> None:
    recorder = _recorder()
    kept = _recorded(recorder, allocators, MIB)
    _release(kept)
    _recorded(recorder, allocators, MIB)
    assert allocators.pools == 2


@pytest.mark.parametrize("before", [0, 1])
def test_after_a_capture_that_broke_recording_goes_on_in_another_pool(allocators: Allocators, before: int) -> None:
    recorder = _recorder()
    others = [_recorded(recorder, allocators, 100 * MIB) for _ in range(before)]
    with pytest.raises(ValueError, match="not while it is captured"):
        _break(recorder, allocators)
    assert allocators.users[1] == 2 * before  # nothing of it is counted any more
    assert recorder.held_bytes == before * 100 * MIB
    again = _recorded(recorder, allocators, 50 * MIB)
    assert allocators.pools == 2
    assert recorder.held_bytes == (before * 100 + 50) * MIB
    for pieces in [*others, again]:
        _release(pieces)
    assert recorder.held_bytes == 0
    assert allocators.left_by_all == {1, 2}


def test_what_raises_and_breaks_no_capture_leaves_the_pool_to_others(allocators: Allocators) -> None:
    recorder = _recorder()
    first = _recorded(recorder, allocators, MIB)
    with pytest.raises(torch.OutOfMemoryError), recorder.record():
        raise torch.OutOfMemoryError("no room")
    assert allocators.users[1] == len(first)
    _recorded(recorder, allocators, MIB)
    assert allocators.pools == 1


def test_a_recording_beside_which_no_evaluation_fits_is_refused(allocators: Allocators) -> None:
    recorder = _recorder()
    with pytest.raises(
        torch.OutOfMemoryError, match="400 MiB are left beside recordings, an evaluation takes about 600"
    ):
        _recorded(recorder, allocators, 600 * MIB)
    assert recorder.held_bytes == 0
    assert allocators.left_by_all == {1}


def test_nothing_else_is_computed_from_when_memory_is_looked_at(allocators: Allocators) -> None:
    """A decode beside would be counted as the recording's: it ends first, and what it held is free."""
    recorder = CudaGraphRecorder(torch.device("cuda", 0), alone=lambda: allocators.take(-300 * MIB))
    allocators.take(300 * MIB)
    pieces = _recorded(recorder, allocators, 20 * MIB)
    assert recorder.held_bytes == 20 * MIB
    assert (allocators.free_bytes, len(pieces)) == (980 * MIB, 2)


@gpu
def test_on_a_gpu_pieces_replay_and_a_broken_capture_spoils_nothing() -> None:
    device = torch.device("cuda", 0)
    recorder = CudaGraphRecorder(device)
    x = torch.arange(1 << 20, dtype=torch.float32, device=device)

    def record() -> tuple[list[Any], torch.Tensor]:
        with recorder.record() as tape:
            between = x * 2
            tape.cut()
            out = between + 1
        return tape.pieces, out

    def check(pieces: list[Any], out: torch.Tensor) -> None:
        x.add_(1)
        for piece in pieces:
            piece.replay()
        assert torch.equal(out, x * 2 + 1)

    first = record()
    check(*first)
    held_bytes = recorder.held_bytes
    assert held_bytes >= 2 * x.nbytes
    for _ in range(2):
        with pytest.raises(RuntimeError), recorder.record():
            (x + 1).sum().item()
        assert recorder.held_bytes == held_bytes
    second = record()
    for recording in (second, first, second):
        check(*recording)
    pinned = torch.ones(1 << 20).pin_memory().to(device, non_blocking=True)
    assert float(pinned.sum()) == 1 << 20
    _release(first[0] + second[0])
    assert recorder.held_bytes == 0
    check(*record())


@gpu
def test_on_a_gpu_memory_that_runs_out_within_a_capture_is_given_back() -> None:
    device = torch.device("cuda", 0)
    recorder = CudaGraphRecorder(device)
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    with pytest.raises(torch.OutOfMemoryError):
        _exhaust(recorder, free_bytes // 8)
    torch.cuda.empty_cache()
    left_bytes, _ = torch.cuda.mem_get_info(device)
    assert left_bytes > free_bytes - (64 << 20)
    assert recorder.held_bytes == 0
