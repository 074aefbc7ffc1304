"""The layout that is expected to finish a job first, where the deployment's goal is throughput."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.deployment.control_cost import MEGA
from pipeline.deployment.layouts import Layout, planned_layout
from pipeline.deployment.speed import assumed_rate


@dataclass(frozen=True)
class Load:
    """One image as a layout sees it.

    Attributes:
        width, height: in pixels.
        tera: its work, in tera-operations (`cost.py`).
        adapter_pixels: how many pixels less each GPU has room for, because of what the image names.
    """

    width: int
    height: int
    tera: float
    adapter_pixels: int = 0

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def fits(self, patches: int, one_gpu_megapixels: float) -> bool:
        """Whether so many GPUs hold it as patches."""
        return self.pixels / patches + self.adapter_pixels <= one_gpu_megapixels * 1e6


@dataclass(frozen=True)
class LayoutChoice:
    """A layout, and why it was chosen."""

    layout: Layout
    reason: str


def fastest_layout(gpus: int, images: Sequence[Load], *, one_gpu_megapixels: float) -> LayoutChoice:
    """The layout that is expected to finish all images of a job first.

    Replicas lose nothing to messages, so they win while there are images enough for all and each fits its GPUs; patches
    win for the last few images, and for what does not fit.

    Args:
        gpus: of the pod.
        images: in the order in which replicas take them in turn; at least one.
        one_gpu_megapixels: largest image that fits one GPU beside the model alone; `n` patches hold `n` times as much.
    """
    largest, longest = max(image.pixels for image in images), min(max(image.width, image.height) for image in images)
    distinct = set(images)
    fitting = [
        (_expected_s(layout, images), layout)
        for layout in _layouts_of(gpus)
        if all(image.fits(layout.patch, one_gpu_megapixels) for image in distinct)
        and layout.shortest_long_side_px <= longest
    ]
    if not fitting:
        return LayoutChoice(planned_layout(gpus), f"{largest / 1e6:.1f} megapixels may not fit any layout")
    seconds, layout = min(fitting)
    others = [other for other in fitting if other[1].data == 1 and other[1] != layout]
    data = layout.data
    reason = f"{len(images)} images of at most {largest / 1e6:.2g} megapixels: {data} replicas of {gpus // data} GPUs"
    if others:
        reason += f", expected {min(others)[0] / seconds:.2g} times as fast as {min(others)[1]}"
    return LayoutChoice(layout, reason)


def chosen_layout(
    gpus: int,
    pinned: Layout | None,
    goal: str,
    images: Callable[[], Sequence[Load]],
    *,
    one_gpu_megapixels: float,
) -> LayoutChoice:
    """The layout of a job: the one that settings name, or whichever serves the deployment's goal."""
    if pinned is not None:
        return LayoutChoice(planned_layout(gpus, pinned), "TESSERA_LAYOUT names it")
    if goal == "throughput":
        return fastest_layout(gpus, images(), one_gpu_megapixels=one_gpu_megapixels)
    return LayoutChoice(planned_layout(gpus), "the goal is latency: all GPUs on one image")


def _layouts_of(gpus: int) -> Iterator[Layout]:
    for data in range(1, gpus + 1):
        for cfg in (1, 2):
            if gpus % (data * cfg) == 0:
                yield Layout(data, cfg, gpus // (data * cfg))


def _expected_s(layout: Layout, images: Sequence[Load]) -> float:
    return max(
        sum(image.tera / assumed_rate(layout, image.pixels / MEGA) for image in images[replica :: layout.data])
        for replica in range(layout.data)
    )
