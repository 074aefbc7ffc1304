"""Pieces of an evaluation as CUDA graphs."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from distri.ranks.recorder import Tape


class CudaGraphRecorder:
    """Pieces are CUDA graphs, captured on a stream of their own; all share one pool of memory.

    In order, and one recording at a time: then what one graph has freed within its capture another may use.

    Attributes:
        held_bytes: device memory that recordings have taken, graphs included, since the pool was empty.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._living: weakref.WeakSet[_Graph] = weakref.WeakSet()
        self._pool: Any = None
        self._taken_bytes = 0

    @property
    def held_bytes(self) -> int:
        return self._taken_bytes if len(self._living) else 0

    @contextmanager
    def record(self) -> Iterator[Tape]:
        """Record what the block computes on the current device."""
        if not len(self._living):
            # A pool that all its graphs have left cannot be captured into again.
            self._pool, self._taken_bytes = torch.cuda.graph_pool_handle(), 0
        gc.collect()  # what it frees during a capture would break the capture
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # the pool takes memory of its own; what eager evaluations have left may be it
        free_before, _ = torch.cuda.mem_get_info(self._device)
        tape = _GraphTape(self._pool, self._device)
        with torch.cuda.stream(self._stream):
            try:
                tape.begin()
                yield tape
                tape.end()
            except BaseException:
                tape.abandon()
                raise
        torch.cuda.synchronize(self._device)
        self._living.update(tape.pieces)
        free_after, _ = torch.cuda.mem_get_info(self._device)
        self._taken_bytes += max(0, free_before - free_after)


class _Graph:
    """A piece as a CUDA graph."""

    def __init__(self, graph: torch.cuda.CUDAGraph, device: torch.device) -> None:
        self._graph, self._device = graph, device

    def replay(self) -> None:
        self._graph.replay()

    def release(self) -> None:
        torch.cuda.synchronize(self._device)  # it may still be running
        self._graph.reset()


class _GraphTape:
    def __init__(self, pool: Any, device: torch.device) -> None:
        self.pieces: list[_Graph] = []
        self._pool, self._device = pool, device
        self._open: torch.cuda.CUDAGraph | None = None

    def cut(self) -> None:
        self.end()
        self.begin()

    def begin(self) -> None:
        self._open = torch.cuda.CUDAGraph()
        # Other threads (NCCL's watchdog, prompts that are embedded ahead) may go on with what a capture forbids.
        self._open.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> None:
        if self._open is None:
            raise AssertionError("no piece has begun")
        self._open.capture_end()
        self.pieces.append(_Graph(self._open, self._device))
        self._open = None

    def abandon(self) -> None:
        """End a capture that failed, so that the stream and the allocator are as before; free what was recorded."""
        if self._open is not None:
            with suppress(RuntimeError):  # it says once more what broke the capture
                self._open.capture_end()
            # In some versions of torch a capture that broke leaves the allocator in it, without a public way out.
            with suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(self._device.index or 0, self._pool)
            self._open.reset()
            self._open = None
        for piece in self.pieces:
            piece.release()
        self.pieces = []
        with suppress(RuntimeError):
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
