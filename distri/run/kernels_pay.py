"""Whether a job is long enough for fused kernels to pay for their start."""

from collections.abc import Sequence

import torch

from distri.engine import Engine
from distri.layers.kernels.start import are_compiled, measured_start, note_start
from distri.ranks.mesh import Layout
from pipeline.records.shards import ImageTask

# An evaluation of both halves of guidance at so many megapixels takes one H200 about 40 ms x M x (1 + 0.07 M): 42, 190
# and 1166 ms were measured at 1.05, 4.2 and 14.7 (docs/gpu.md). Fused kernels took 10 to 14 % off.
EVALUATION_S, GROWTH, SAVED = 0.040, 0.07, 0.1

# Taken until a pod on such a GPU has measured its start: importing Triton, binding it to the driver, and loading and
# comparing some sixteen kernels; and compiling those, a third of a second each.
START_S, COMPILE_S = 2.0, 6.0


def kernels_pay(tasks: Sequence[ImageTask], layout: Layout, gpu: str) -> bool:
    """Whether what kernels save in a job is more than what they take at its start, on each rank.

    Args:
        tasks: of the job.
        layout: of the pod.
        gpu: name of the model, as what was measured on it is kept.
    """
    return sum(map(saved_s, tasks)) / layout.ranks > start_s(gpu)


def gpu_of(device: torch.device) -> str:
    """The name of a device's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def start_s(gpu: str) -> float:
    """What the next start takes: as an earlier one did, whose kernels need not be compiled again, or an estimate."""
    measured = measured_start(gpu)
    if are_compiled():
        return START_S if measured.warm_s is None else measured.warm_s
    return START_S + COMPILE_S if measured.cold_s is None else measured.cold_s


def saved_s(task: ImageTask) -> float:
    """What kernels save in an image on one GPU."""
    megapixels = task.row.width * task.row.height / 1e6
    return SAVED * task.row.steps * EVALUATION_S * megapixels * (1 + GROWTH * megapixels)


def keep_start(engine: Engine, gpu: str) -> None:
    """Keep what this rank's kernels took to start, for the next job on such a GPU; nothing if none was used."""
    if engine.kernels.start_s > 0:
        note_start(gpu, engine.kernels.start_s, cold=engine.kernels.began_cold)
