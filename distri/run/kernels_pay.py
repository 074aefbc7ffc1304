"""Whether a job is long enough for fused kernels to pay for their start."""

from collections.abc import Sequence

from distri.layers.kernels.fused import are_compiled
from distri.ranks.mesh import Layout
from pipeline.records.shards import ImageTask

# An evaluation of both halves of guidance at so many megapixels takes one H200 about 40 ms x M x (1 + 0.07 M): 42, 190
# and 1166 ms were measured at 1.05, 4.2 and 14.7 (docs/gpu.md). Fused kernels took 10 to 14 % off.
EVALUATION_S, GROWTH, SAVED = 0.040, 0.07, 0.1

# Estimates until somebody measures: importing Triton, binding it to the driver, and loading and comparing some sixteen
# kernels; and compiling those, a third of a second each.
START_S, COMPILE_S = 2.0, 6.0


def kernels_pay(tasks: Sequence[ImageTask], layout: Layout) -> bool:
    """Whether what kernels save in a job is more than what they take at its start, on each rank."""
    cost_s = START_S if are_compiled() else START_S + COMPILE_S
    return sum(map(saved_s, tasks)) / layout.ranks > cost_s


def saved_s(task: ImageTask) -> float:
    """What kernels save in an image on one GPU."""
    megapixels = task.row.width * task.row.height / 1e6
    return SAVED * task.row.steps * EVALUATION_S * megapixels * (1 + GROWTH * megapixels)
