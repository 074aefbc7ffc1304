"""How a rank ends badly: the outcome that its error is, the rank that is to blame, and what is still committed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from distri.ranks.errors import SILENT, GpuFailed, OutOfMemory, PeerLost
from distri.ranks.heartbeat import Heartbeat
from distri.ranks.progress import Progress
from distri.run import ending
from distri.run.ending import code_of, end_from_a_thread, report_error
from distri.run.shard import PodMisconfigured
from pipeline.names import TERMINATION_LOG_VARIABLE
from pipeline.records.attempt import Code, PodReport
from tests.distri.ranks.test_progress import Device

LOST = PeerLost(missing={2: SILENT}, ranks=range(3), reason="no heartbeat for 6 s")


def _ecc() -> Exception:
    error: Any = torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
    error.error_code = 214
    return error  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LOST, Code.ENGINE_ERROR),
        (torch.OutOfMemoryError("CUDA out of memory"), Code.OUT_OF_MEMORY),
        (OutOfMemory("CUDA out of memory"), Code.OUT_OF_MEMORY),
        (_ecc(), Code.GPU_UNHEALTHY),
        (GpuFailed(220, "uncorrectable NVLink error", "NCCL"), Code.GPU_UNHEALTHY),
        (PodMisconfigured("no model"), Code.CONFIG_ERROR),
        (RuntimeError("a bug"), Code.ENGINE_ERROR),
    ],
)
def test_every_error_has_its_outcome(error: Exception, code: Code) -> None:
    assert code_of(error) is code


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], PodReport]:
    path = tmp_path / "termination-log"
    monkeypatch.setenv(TERMINATION_LOG_VARIABLE, str(path))
    return lambda: PodReport.model_validate_json(path.read_text())


def test_the_report_names_the_rank_that_is_missing_and_the_first_one_stands(written: Callable[[], PodReport]) -> None:
    report_error(LOST, 0)
    report_error(RuntimeError("another"), 1)
    assert (written().rank, written().code) == (2, Code.ENGINE_ERROR)
    assert "no sign from 2" in written().message


class _Leader:
    claimed = True

    def __init__(self, *, stuck: bool) -> None:
        self.committer, self._stuck, self.flushed = self, stuck, False

    def flush(self) -> None:
        while self._stuck:
            pass
        self.flushed = True


@pytest.mark.parametrize("stuck", [False, True])
def test_a_process_ends_from_a_thread_with_what_is_rendered_committed(
    written: Callable[[], PodReport], monkeypatch: pytest.MonkeyPatch, stuck: bool
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(ending, "COMMIT_S", 0.2 if stuck else 60.0)
    leader: Any = _Leader(stuck=stuck)
    end_from_a_thread(LOST, 0, leader)
    leader._stuck = False
    assert ended == [1]
    assert written().rank == 2
    assert stuck or leader.flushed


_HANGS = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[3])!r})
from tests.distri.run.test_ending import hang
hang()
"""


def hang() -> None:
    """In a process of its own: its GPU never ends an evaluation, and its main thread waits for that for ever."""
    device = Device()
    progress = Progress(device.mark)
    Heartbeat(
        dist.HashStore(), "test", 0, 1, progress,  # type: ignore[attr-defined]
        timeout=timedelta(seconds=2), on_lost=lambda error: end_from_a_thread(error, 0, None),
    )  # fmt: skip
    with progress.evaluation("evaluation 9 of 20"):
        pass
    sys.stdin.read()


def test_a_hanging_gpu_ends_the_process_and_leaves_a_report(written: Callable[[], PodReport]) -> None:
    with subprocess.Popen([sys.executable, "-c", _HANGS], stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=240) == 1
    assert "hangs in its GPU, at evaluation 9 of 20" in written().message
    assert written().rank == 0
