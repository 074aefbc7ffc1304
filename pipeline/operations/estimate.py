"""What a prompt set would cost before anything runs: images, GPU hours, wall time, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.deployment.adapter_memory import adapter_pixels
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.cost import tera_operations
from pipeline.deployment.slot_choice import chosen_slots
from pipeline.deployment.speed import UNKNOWN_IMAGES, Speed, SpeedKey, expected_speed, paces, size_class
from pipeline.picture import Format
from pipeline.promptset.fields.row import ResolvedRow

# Until this deployment has written files: bytes a pixel of photographs.
ASSUMED_BYTES_A_PIXEL = {Format.PNG: 1.6, Format.JPEG: 0.5, Format.WEBP: 0.35}
# Until a pod has succeeded here: image pull from a node's cache, start of the ranks, loading of SDXL's weights.
ASSUMED_IDLE_S = 90.0


class Estimate(BaseModel):
    """What to expect. Seconds are of wall time.

    Attributes:
        images, jobs: how many.
        gpus: of one pod.
        render_s: of one pod that would do all of it.
        idle_s: of all pods together: start, load and end.
        gpu_hours: of all pods, those idle seconds included.
        pods: how many work at the same time.
        wall_s: from the first pod's start to the last one's end.
        bytes: of the files.
        learned: whether all of it is based on jobs that this deployment has finished.
        basis: what each part is based on.
        left_out: how many invalid rows were left out, if that was asked for.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    jobs: int
    gpus: int
    render_s: float
    idle_s: float
    gpu_hours: float
    pods: int
    wall_s: float
    bytes: int
    learned: bool
    basis: tuple[str, ...]
    left_out: int = 0


@dataclass
class _Kind:
    """Images of one model and size class."""

    images: int = 0
    tera: float = 0.0
    pixels: int = 0
    widths: int = 0
    heights: int = 0
    most_adapter_pixels: int = 0
    bytes_by_format: dict[Format, int] = field(default_factory=dict)


class Estimator:
    """Takes rows one by one and keeps only sums, so that a million rows need no memory."""

    def __init__(self, deployment: Deployment, speeds: Mapping[SpeedKey, Speed]) -> None:
        self._deployment, self._speeds = deployment, speeds
        self._kinds: dict[tuple[str, int], _Kind] = {}

    def add(self, row: ResolvedRow) -> None:
        """Count a row's images."""
        pixels = row.width * row.height
        native_px = self._deployment.models[row.model].native_px
        kind = self._kinds.setdefault((row.model, size_class(pixels)), _Kind())
        kind.images += row.num_images
        kind.tera += row.num_images * tera_operations(row, native_px)
        kind.pixels += row.num_images * pixels
        kind.widths += row.num_images * row.width
        kind.heights += row.num_images * row.height
        kind.most_adapter_pixels = max(kind.most_adapter_pixels, adapter_pixels(row))
        formats = kind.bytes_by_format
        formats[row.file.format] = formats.get(row.file.format, 0) + row.num_images * pixels

    def estimate(self, *, pods: int, left_out: int = 0) -> Estimate:
        """The estimate for the rows so far, if so many pods work at a time."""
        deployment = self._deployment
        render_s, images, total_bytes, basis, learned = 0.0, 0, 0.0, [], True
        for (model, _), kind in sorted(self._kinds.items()):
            pixels = kind.pixels // kind.images
            size = kind.widths // kind.images, kind.heights // kind.images
            layout = deployment.usual_layout(*size, kind.most_adapter_pixels)
            of_job: dict[str, Any] = {"model": model, "layout": layout, "exact": deployment.exact, "pixels": pixels}
            of_replica = min(kind.images, deployment.images_per_job) // layout.data
            of_job |= {"device": deployment.device, "exchange": deployment.exchange}
            slots = chosen_slots(deployment.slots, self._speeds, images=of_replica, **of_job).slots
            speed = expected_speed(self._speeds, slots=slots, **of_job)
            render_s += kind.tera / speed.tera_a_second / layout.data
            images += kind.images
            total_bytes += self._bytes(model, kind)
            learned = learned and speed.learned
            at_a_time = f", {slots} images at a time" if slots > 1 else ""
            basis.append(f"{model}, about {pixels / 1e6:.2g} megapixels{at_a_time}: {speed.basis}")
        most = deployment.images_per_job if paces(self._speeds) else min(UNKNOWN_IMAGES, deployment.images_per_job)
        jobs = max(math.ceil(images / most), math.ceil(render_s / deployment.job_seconds))
        idle_s = jobs * self._idle_s()
        at_once = max(1, min(pods, jobs))
        return Estimate(
            images=images,
            jobs=jobs,
            gpus=deployment.gpus,
            render_s=round(render_s, 1),
            idle_s=round(idle_s, 1),
            gpu_hours=round((render_s + idle_s) * deployment.gpus / 3600, 4),
            pods=at_once,
            # In whole jobs: the last one is not shared among pods that have nothing left to do.
            wall_s=round(math.ceil(jobs / at_once) * (render_s + idle_s) / max(1, jobs), 1),
            bytes=int(total_bytes),
            learned=learned,
            basis=tuple(basis),
            left_out=left_out,
        )

    def _bytes(self, model: str, kind: _Kind) -> float:
        written = [speed for key, speed in self._speeds.items() if key.model == model and speed.pixels]
        pixels = sum(speed.pixels for speed in written)
        if pixels and set(kind.bytes_by_format) == {Format.PNG}:
            return kind.pixels * sum(speed.bytes for speed in written) / pixels
        return sum(ASSUMED_BYTES_A_PIXEL[format_] * pixels for format_, pixels in kind.bytes_by_format.items())

    def _idle_s(self) -> float:
        pods = sum(speed.pods for speed in self._speeds.values())
        return sum(speed.idle_s for speed in self._speeds.values()) / pods if pods else ASSUMED_IDLE_S
