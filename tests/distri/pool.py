"""Rank processes that stay alive between tests, since starting torch takes longer than most tests do.

They are forked from a server that has imported torch and diffusers once and computed nothing, so that eight of them
start about as fast as one.
"""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

COLLECTIVE_TIMEOUT = timedelta(seconds=60)


class RankError(AssertionError):
    """A rank raised, died or did not answer."""


class Ranks:
    """`count` gloo ranks; `run` calls one function on all of them.

    Args:
        count: how many.
        spawned: start each anew, as ranks that use a GPU must: CUDA does not survive a fork of what has touched it.
    """

    def __init__(self, count: int, *, spawned: bool = False) -> None:
        self.count = count
        server: Any = multiprocessing.get_context("spawn" if spawned else "forkserver")
        if not spawned:
            server.set_forkserver_preload(["torch", "diffusers", "tests.distri.on_ranks"])
        self._pipes: list[Connection] = []
        self._processes = []
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            for rank in range(count):
                ours, theirs = server.Pipe()
                process = server.Process(target=_serve, args=(theirs, rank, count), daemon=True)
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self._processes.append(process)
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        self.broken = False
        port = self._pipes[0].recv()
        for pipe in self._pipes[1:]:
            pipe.send(port)

    def run(self, function: Callable[..., Any], *args: Any, timeout_s: float = 240.0) -> list[Any]:
        """Call `function(*args)` on every rank; results in rank order. The function must be importable.

        Raises:
            RankError: with the traceback of the first rank that failed. The pool is of no use afterwards.
        """
        self.ask(function, *args)
        answers: dict[int, Any] = {}
        while len(answers) < self.count:
            missing = [pipe for rank, pipe in enumerate(self._pipes) if rank not in answers]
            ready = wait(missing, timeout=timeout_s)
            if not ready:
                self._fail(f"ranks {sorted(set(range(self.count)) - set(answers))} gave no answer in {timeout_s} s")
            for rank, pipe in enumerate(self._pipes):
                if pipe not in ready:
                    continue
                try:
                    good, answers[rank] = pipe.recv()
                except EOFError:
                    self._fail(f"rank {rank} died with exit code {self._processes[rank].exitcode}")
                if not good:
                    self._fail(f"rank {rank} raised\n{answers[rank]}")
        return [answers[rank] for rank in range(self.count)]

    def ask(self, function: Callable[..., Any], *args: Any) -> None:
        """Begin a call on every rank and wait for none."""
        for pipe in self._pipes:
            pipe.send((function, args))

    def answer(self, rank: int, *, timeout_s: float) -> tuple[bool, Any]:
        """One rank's answer to `ask`: whether it returned, and what, or the traceback of what it raised."""
        if not self._pipes[rank].poll(timeout_s):
            self._fail(f"rank {rank} gave no answer in {timeout_s} s")
        good, answer = self._pipes[rank].recv()
        return good, answer

    def stop(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _fail(self, reason: str) -> None:
        self.broken = True
        self.stop()
        raise RankError(reason)


def _serve(pipe: Connection, rank: int, count: int) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    # Rank 0 says where it listens once it does: a port that was free before may be somebody's by then.
    port = 0 if rank == 0 else pipe.recv()
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", port, count, rank == 0, COLLECTIVE_TIMEOUT, wait_for_workers=False
    )
    if rank == 0:
        pipe.send(store.port)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=COLLECTIVE_TIMEOUT)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, function(*args))
        except BaseException:  # noqa: BLE001 - it is reported to the test that asked
            answer = (False, traceback.format_exc())
        pipe.send(answer)


def _die_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])  # type: ignore[union-attr]
    os._exit(1)
