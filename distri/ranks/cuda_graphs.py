"""Pieces of an evaluation as CUDA graphs."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch.nn import functional

from distri.ranks.recorder import Tape


class CudaGraphRecorder:
    """Pieces are CUDA graphs, captured on a stream of their own; all share one pool of memory.

    In order, and one recording at a time: then what one graph has freed within its capture another may use.

    Args:
        device: a GPU.
        alone: called before a recording; it returns when no picture is decoded beside. What that takes meanwhile would
            be counted as the pool's, and it would lack the memory that a capture may not give back.

    Attributes:
        held_bytes: device memory of all recordings that are left: the pool, and the graphs themselves.
    """

    def __init__(self, device: torch.device, *, alone: Callable[[], object] = lambda: None) -> None:
        self._device, self._alone = device, alone
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pools: list[_Pool] = []  # usually one; another if a capture broke in it

    @property
    def held_bytes(self) -> int:
        return sum(pool.held_bytes for pool in self._pools)

    @contextmanager
    def record(self) -> Iterator[Tape]:
        """Record what the block computes on the current device.

        Raises:
            torch.OutOfMemoryError: also if an evaluation as it is would no longer fit beside the recordings.
        """
        self._alone()
        pool = self._pool()
        with torch.cuda.stream(self._stream):
            _make_workspaces(self._device)
        gc.collect()  # what it frees during a capture would break the capture
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # the pool takes memory of its own; what eager evaluations have left may be it
        free_bytes, reserved_bytes = self._memory()
        tape = _GraphTape(pool, self._device)
        with torch.cuda.stream(self._stream):
            try:
                tape.begin()
                yield tape
                tape.end()
                self._weigh(pool, tape, free_bytes, reserved_bytes)
            except BaseException:
                tape.abandon()
                raise

    def _pool(self) -> "_Pool":
        """Where to record. A pool that all its graphs have left cannot be captured into again."""
        self._pools = [pool for pool in self._pools if pool.graphs]
        if not self._pools or self._pools[-1].broken:
            self._pools.append(_Pool())
        return self._pools[-1]

    def _memory(self) -> tuple[int, int]:
        """What the device has left, and what torch's allocator has taken of it."""
        free_bytes, _ = torch.cuda.mem_get_info(self._device)
        return free_bytes, torch.cuda.memory_reserved(self._device)

    def _weigh(self, pool: "_Pool", tape: "_GraphTape", free_bytes: int, reserved_bytes: int) -> None:
        """Note what was taken since then; see that as much again is left for an evaluation as it is."""
        torch.cuda.synchronize(self._device)
        left_bytes, now_reserved_bytes = self._memory()
        grown_bytes = max(0, now_reserved_bytes - reserved_bytes)
        pool.grown_bytes += grown_bytes
        pool.graphs.update(tape.pieces)
        tape.pieces[-1].size_bytes = max(0, free_bytes - left_bytes - grown_bytes)
        if left_bytes < pool.grown_bytes:
            left, needed = left_bytes >> 20, pool.grown_bytes >> 20
            raise torch.OutOfMemoryError(f"{left} MiB are left beside recordings, an evaluation takes about {needed}")


class _Pool:
    """Memory that graphs share; it is given back when the last of them is released.

    Attributes:
        handle: as torch knows it.
        graphs: that live in it.
        grown_bytes: what it has taken.
        broken: whether a capture in it broke. torch's allocator of pinned memory then takes it for being captured into
            for ever, and refuses another capture.
    """

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle()
        self.graphs: weakref.WeakSet[_Graph] = weakref.WeakSet()
        self.grown_bytes = 0
        self.broken = False

    @property
    def held_bytes(self) -> int:
        return self.grown_bytes + sum(graph.size_bytes for graph in self.graphs) if self.graphs else 0


class _Graph:
    """A piece as a CUDA graph.

    Attributes:
        size_bytes: of device memory that it takes beside its pool; the last of a recording has it for all of them.
    """

    size_bytes = 0

    def __init__(self, graph: torch.cuda.CUDAGraph, pool: _Pool, device: torch.device) -> None:
        self._graph, self._pool, self._device = graph, pool, device

    def replay(self) -> None:
        self._graph.replay()

    def release(self) -> None:
        torch.cuda.synchronize(self._device)  # it may still be running
        self._graph.reset()
        self._pool.graphs.discard(self)


class _GraphTape:
    def __init__(self, pool: _Pool, device: torch.device) -> None:
        self.pieces: list[_Graph] = []
        self._pool, self._device = pool, device
        self._open: torch.cuda.CUDAGraph | None = None

    def cut(self) -> None:
        self.end()
        self.begin()

    def begin(self) -> None:
        self._open = torch.cuda.CUDAGraph()
        # Other threads (NCCL's watchdog, prompts that are embedded ahead) may go on with what a capture forbids.
        self._open.capture_begin(pool=self._pool.handle, capture_error_mode="thread_local")

    def end(self) -> None:
        if self._open is None:
            raise AssertionError("no piece has begun")
        self._open.capture_end()
        self.pieces.append(_Graph(self._open, self._pool, self._device))
        self._open = None

    def abandon(self) -> None:
        """End a capture that failed, so that the stream and the allocator are as before; free what was recorded."""
        if self._open is not None:
            with suppress(RuntimeError):  # it says once more what broke the capture
                self._open.capture_end()
            if not _has_ended(self._open):
                _give_up(self._open, self._pool, self._device)
            self._open.reset()
            self._open = None
        for piece in self.pieces:
            piece.release()
        self.pieces = []
        with suppress(RuntimeError):
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()


_given_up: list[torch.cuda.CUDAGraph] = []  # torch goes on asking them whether they are being captured


def _give_up(graph: torch.cuda.CUDAGraph, pool: _Pool, device: torch.device) -> None:
    """Do what `capture_end` has not come to, for which torch has no public way: nobody is to record into the pool."""
    pool.broken = True
    _given_up.append(graph)
    place = torch.cuda.current_device() if device.index is None else device.index
    for undo in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        with suppress(RuntimeError, AttributeError):  # it had been done
            getattr(torch._C, undo)(place, pool.handle)


def _has_ended(graph: torch.cuda.CUDAGraph) -> bool:
    """Whether a capture has come to its end, so that `reset` leaves the pool for it."""
    try:
        graph.pool()
    except RuntimeError:
        return False
    return True


def _make_workspaces(device: torch.device) -> None:
    """Let cuBLAS allocate what it keeps for this stream. Within a capture it would be of the pool, and outlive it."""
    x = torch.zeros((16, 16), dtype=torch.float16, device=device)
    functional.linear(x @ x, x, x[0])
