"""Who is missing, from what all ranks say; and what is no missing rank but this rank's own device."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from distri.ranks.device_errors import device_failure
from distri.ranks.errors import SILENT, EngineError, GpuFailed, OutOfMemory, PeerLost
from distri.ranks.missing_ranks import Heard, judge, name_missing
from distri.ranks.progress import Standing

NOW, LIMIT = 1000.0, 20.0
WAITS, WORKS = Standing(what="bucket 1", waits=True), Standing(what="evaluation 7")
HANGS, IN_EVALUATION = Standing(what="evaluation 7", device=True), Standing(what="evaluation 7", in_evaluation=True)


def _heard(standing: Standing, *, heard_s: float = 0, moved_s: float = 0, left: bool = False) -> Heard:
    return Heard(standing, 1, NOW - heard_s, NOW - moved_s, left)


MOVES = _heard(WORKS)
WAITED = _heard(WAITS, moved_s=25)
JUDGED: list[tuple[str, Sequence[Heard], dict[int, str] | None]] = [
    ("all well", [MOVES, _heard(WAITS)], None),
    ("one waits for long, others go on", [WAITED, MOVES], None),
    ("a long load that nobody waits for", [_heard(WORKS, moved_s=500)], None),
    ("an evaluation that compiles", [_heard(IN_EVALUATION, moved_s=100)], None),
    ("an evaluation that never ends", [_heard(IN_EVALUATION, moved_s=130)], {0: "hangs in its program"}),
    ("stopped, and waited for", [WAITED, _heard(WORKS, heard_s=21, moved_s=21)], {1: SILENT}),
    ("stopped, and waited for by nobody", [MOVES, _heard(WAITS, heard_s=21)], {1: SILENT}),
    ("silence comes before what hangs", [WAITED, _heard(HANGS, moved_s=30), _heard(WORKS, heard_s=21)], {2: SILENT}),
    ("ended as it should", [MOVES, _heard(WORKS, heard_s=99, moved_s=99, left=True)], None),
    ("a kernel hangs, and others wait", [WAITED, WAITED, _heard(HANGS, moved_s=25)], {2: "hangs in its GPU"}),
    ("a kernel hangs on the only rank", [_heard(HANGS, moved_s=21)], {0: "hangs in its GPU, at evaluation 7"}),
    ("a program hangs, and others wait", [WAITED, _heard(WORKS, moved_s=25)], {1: "hangs in its program"}),
    ("a message is lost", [WAITED, WAITED], {}),
]


@pytest.mark.parametrize(("heard", "missing"), [case[1:] for case in JUDGED], ids=[case[0] for case in JUDGED])
def test_who_is_missing(heard: Sequence[Heard], missing: dict[int, str] | None) -> None:
    found = judge(dict(enumerate(heard)), NOW, LIMIT)
    assert (None if found is None else found[0].keys()) == (None if missing is None else missing.keys())
    for rank, how in (missing or {}).items():
        assert found is not None
        assert how in found[0][rank]
        assert how in str(PeerLost(missing=found[0], ranks=range(len(heard)), reason=found[1]))


class _Witness:
    def missing(self, ranks: Sequence[int]) -> dict[int, str]:
        return {1: SILENT}


def _accelerator(code: int) -> Exception:
    error: Any = torch.AcceleratorError(f"CUDA error {code}")
    error.error_code = code
    return error  # type: ignore[no-any-return]


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error, NCCL version 2.28.9\nncclUnhandledCudaError: "
OWN: list[tuple[Exception, type[Exception]]] = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemory),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
    (RuntimeError("could not create a primitive"), OutOfMemory),
    (RuntimeError("could not execute a primitive"), OutOfMemory),
    (RuntimeError("std::bad_alloc"), OutOfMemory),
    (torch.distributed.DistBackendError(f"{NCCL}Last error:\nCuda failure 2 'out of memory'"), OutOfMemory),
    (torch.distributed.DistBackendError(f"{NCCL}Last error:\nFailed to CUDA calloc async 4 bytes"), OutOfMemory),
    (_accelerator(2), OutOfMemory),
    (_accelerator(214), GpuFailed),
    (_accelerator(999), GpuFailed),
    (torch.distributed.DistBackendError(f"{NCCL}Last error:\nCuda failure 220 'NVLink'"), GpuFailed),
    (RuntimeError("No CUDA GPUs are available"), GpuFailed),
    (_accelerator(700), torch.AcceleratorError),  # our own kernel's fault, more often than not
    (torch.distributed.DistBackendError(f"{NCCL}Last error:\nCuda failure 700 'illegal'"), RuntimeError),
    (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"), PeerLost),
    (torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"), PeerLost),
]


@pytest.mark.parametrize(("error", "wanted"), OWN, ids=[str(error).rsplit("\n", maxsplit=1)[-1] for error, _ in OWN])
def test_what_a_device_raises_is_no_lost_peer(error: Exception, wanted: type[Exception]) -> None:
    with pytest.raises((RuntimeError, EngineError)) as caught, name_missing(_Witness(), range(2)):
        raise error
    assert isinstance(caught.value, wanted)
    assert isinstance(caught.value, PeerLost) is (wanted is PeerLost)


def test_other_errors_are_none_of_a_device() -> None:
    assert device_failure(ValueError("out of memory")) is None
    assert device_failure(RuntimeError("could not create a primitive descriptor for the convolution")) is None
    assert isinstance(device_failure(MemoryError()), OutOfMemory)
