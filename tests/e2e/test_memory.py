"""A rank that runs out of memory: the image gets one more attempt in less of it, and its neighbours lose nothing."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from distri.run.translate import LOW_MEMORY_REPAIR
from pipeline import Batch, Client
from pipeline.states import BatchState
from tests.e2e.stack import User, until

pytestmark = pytest.mark.timeout(1800)

ROOM_BYTES = 160 << 20  # what a limited rank may take more: enough for a small picture, not for the large one
SIZES = (256, 256, 1536, 264, 264)


def _submitted(client: Client) -> Batch:
    rows = [{"prompt": f"{place}", "width": side, "height": side} for place, side in enumerate(SIZES)]
    rows[2] |= {"highres": "direct", "steps": 1}
    batch = client.submit(rows, steps=8)
    until("an image is there", lambda: batch.status().succeeded, timeout_s=600)
    return batch


def _ranks(studio: User) -> set[int]:
    """Processes of rank 1, which leads nobody."""
    found = set()
    for pid, command in studio.processes().items():
        if "-m distri.run" not in command or "torchrun" in command:
            continue
        try:
            if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
        except OSError:
            continue
    return found


def _used_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")


def _limit(pid: int, size_bytes: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_AS, (size_bytes, resource.RLIM_INFINITY))


def test_an_image_that_does_not_fit_is_rendered_in_less_memory_and_its_neighbours_as_ever(
    client: Client, studio: User
) -> None:
    batch = _submitted(client)
    [rank] = _ranks(studio)
    _limit(rank, _used_bytes(rank) + ROOM_BYTES)
    status = batch.wait(timeout_s=600)
    assert (status.state, status.succeeded) == (BatchState.COMPLETED, len(SIZES))
    results = sorted((image.result for image in batch.images()), key=lambda result: result.index)
    assert [result.provenance.attempt for result in results] == [1, 1, 2, 2, 2]
    assert [result.provenance.lean for result in results] == [False, False, True, False, False]
    assert results[2].made.repairs == (LOW_MEMORY_REPAIR,)
