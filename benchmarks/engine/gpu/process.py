"""A part of the measurements in a process of its own, which may crash or hang."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.engine.gpu.bench import Bench, Row

END_S = 5.0  # a process gets to end by itself


def rows_of(name: str, bench: Bench, limit_s: float) -> Iterator[Row]:
    """What a part's process measures, until it is through or its time is up."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(name, bench, theirs))
    process.start()
    theirs.close()
    ends_at, began = time.monotonic() + limit_s, time.monotonic()
    try:
        while True:
            if not ours.poll(max(0.0, ends_at - time.monotonic())):
                yield {"failed": f"stopped after {limit_s:.0f} s, its share of the time"}
                break
            try:
                row = ours.recv()
            except EOFError:
                process.join(END_S)
                yield {"failed": f"the process ended with exit code {process.exitcode}"}
                break
            if row is None:
                yield {"part_s": round(time.monotonic() - began, 1)}
                break
            yield row
    finally:
        _end(process)


def _end(process: Any) -> None:
    process.join(END_S)
    if process.is_alive():
        process.kill()  # ranks that it has started end with it
        process.join()


def _measure(name: str, bench: Bench, pipe: Connection) -> None:
    measure: Callable[[Bench], Iterator[Row]] = import_module(f"benchmarks.engine.gpu.{name}").measure
    if bench.small:
        torch.set_num_threads(1)
    for row in measure(bench):
        pipe.send(row)
    pipe.send(None)
