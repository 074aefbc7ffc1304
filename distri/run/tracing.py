"""The trace of an attempt: every rank's spans and sums, gathered on the pod's first rank."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import torch

from distri.ranks.mesh import Mesh
from distri.ranks.spans import Spans
from pipeline.bucket.trace import RankTrace, Trace, TracePhase
from pipeline.records.attempt import AttemptSpec


def note_start(spans: Spans) -> None:
    """Note how long torchrun and this process have taken until now, where the system says when they started."""
    now_ns = time.monotonic_ns()
    own_ns, parent_ns = _started_ns("self"), _started_ns(str(os.getppid()))
    if own_ns is None:
        return
    if parent_ns is not None and "TORCHELASTIC_RUN_ID" in os.environ:
        spans.add(TracePhase.LAUNCH, parent_ns, own_ns)
    spans.add(TracePhase.START, own_ns, now_ns)


def _started_ns(process: str) -> int | None:
    """When a process started, by the monotonic clock; None where there is no /proc."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    since_boot_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(since_boot_s * 1e9)
    return time.monotonic_ns() - age_ns


def memory_bytes(device: torch.device) -> int:
    """Memory held now: by tensors on a GPU, by the whole process without one; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def gather_trace(mesh: Mesh, spans: Spans, spec: AttemptSpec) -> Trace | None:
    """The whole pod's trace on rank 0, nothing elsewhere; all ranks of the pod call it. Blocks."""
    cuda = mesh.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(mesh.device)  # the events of stalls can be read then
    own = RankTrace(
        rank=mesh.rank,
        device=torch.cuda.get_device_name(mesh.device) if cuda else "cpu",
        spans=tuple(span.as_dict() for span in spans),
        forgotten=spans.forgotten,
        sent_bytes=mesh.traffic.sent_bytes,
        stalled_s=mesh.progress.stalled_s(),
        peak_memory_bytes=mesh.memory.highest_bytes if mesh.memory is not None else _peak_of_process(),
    )
    ranks = mesh.gather_objects(own.model_dump(mode="json"))
    if not ranks:
        return None
    return Trace(
        batch_id=spec.batch_id,
        job_index=spec.job_index,
        attempt=spec.number,
        ranks=tuple(RankTrace.model_validate(rank) for rank in ranks),
    )


def _peak_of_process() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
