"""How a pod's GPUs are used: data x cfg x patch, whose product is the GPU count.

Written as text here (`1x2x4`), because the control side only chooses one and passes it on; the engine's mesh gives it
meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.deployment.cost import MEGA, assumed_rate
from pipeline.errors import SettingsError

ALIGNMENT_PX = 32  # a patch of SDXL's UNet starts at a multiple of 4 latent rows, which are 8 px each


def planned_layout(gpus: int, wanted: str | None = None) -> str:
    """The layout of a pod: the one asked for, or CFG halves apart and patches for the rest where both get GPUs.

    Two GPUs become two patches rather than two CFG halves, so that the latency of rows without guidance falls too.
    Raises SettingsError if the product is not the GPU count.
    """
    if wanted is None:
        return f"1x2x{gpus // 2}" if gpus >= 4 and gpus % 2 == 0 else f"1x1x{gpus}"
    match = re.fullmatch(r"([1-9]\d*)x([12])x([1-9]\d*)", wanted)
    if match is None:
        raise SettingsError(f"TESSERA_LAYOUT: {wanted!r} found; data x cfg x patch wanted, cfg 1 or 2, as in 1x2x4")
    data, cfg, patch = map(int, match.groups())
    if data * cfg * patch != gpus:
        raise SettingsError(f"TESSERA_LAYOUT: {wanted} uses {data * cfg * patch} GPUs, TESSERA_GPUS is {gpus}")
    return wanted


def shortest_long_side_px(layout: str) -> int:
    """The least length of an image's longer side that gives every patch at least one aligned unit, in pixels."""
    return int(layout.rpartition("x")[2]) * ALIGNMENT_PX


@dataclass(frozen=True)
class Load:
    """One image as a layout sees it: how many pixels and how much work, in tera-operations (`cost.py`)."""

    width: int
    height: int
    tera: float

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class Choice:
    """A layout, and why it was chosen."""

    layout: str
    reason: str


def fastest_layout(gpus: int, images: Sequence[Load], *, one_gpu_megapixels: float) -> Choice:
    """The layout that is expected to be through with all images of a job first.

    Replicas lose nothing to messages, so they win while there are images enough for all and each fits its GPUs; patches
    win for the last few images, and for what does not fit.

    Args:
        gpus: of the pod.
        images: in the order in which replicas take them in turn; at least one.
        one_gpu_megapixels: largest image that fits one GPU; `n` patches hold `n` times as much.
    """
    largest, longest = max(image.pixels for image in images), min(max(image.width, image.height) for image in images)
    fitting = [
        (_expected_s(layout, images), data, layout)
        for data, cfg, patch in _factors(gpus)
        for layout in (f"{data}x{cfg}x{patch}",)
        if largest <= one_gpu_megapixels * 1e6 * patch and shortest_long_side_px(layout) <= longest
    ]
    if not fitting:
        return Choice(planned_layout(gpus), f"{largest / 1e6:.1f} megapixels fit no layout for certain")
    seconds, data, layout = min(fitting)
    others = [one for one in fitting if one[1] == 1 and one[2] != layout]
    said = f"{len(images)} images of at most {largest / 1e6:.2g} megapixels: {data} replicas of {gpus // data} GPUs"
    if others:
        said += f", expected {min(others)[0] / seconds:.2g} times as fast as {min(others)[2]}"
    return Choice(layout, said)


def _factors(gpus: int) -> Iterator[tuple[int, int, int]]:
    for data in range(1, gpus + 1):
        for cfg in (1, 2):
            if gpus % (data * cfg) == 0:
                yield data, cfg, gpus // (data * cfg)


def _expected_s(layout: str, images: Sequence[Load]) -> float:
    data = int(layout.partition("x")[0])
    return max(
        sum(image.tera / assumed_rate(layout, image.pixels / MEGA) for image in images[replica::data])
        for replica in range(data)
    )
