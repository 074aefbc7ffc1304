"""Images that join while others are denoised, beside one at a time and static batches: the demo model on a CPU."""

from __future__ import annotations

import random
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distri import demo_model
from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.ranks.mesh import Mesh
from distri.ranks.spans import RANK, RenderSpan, Span, Spans
from distri.sampling.control import Control
from pipeline.bucket.trace import RankTrace, SpanRecord, Trace
from pipeline.outputs.timeline import timeline_png

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "slots.png"
SCHEDULERS = (None, "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler")
LEAST_STEPS, MOST_STEPS = 10, 50
SHOWN = 0.25  # of the time, in the picture


def slots(rows: int, side_px: int, count: int) -> dict[str, Any]:
    """Images a second and occupancy of the same rows, one at a time and in slots; one thread, and one that decodes.

    Half of the rows are rendered one at a time before, and half after those in slots.
    """
    torch.set_num_threads(1)
    images = _images(rows, side_px)
    with tempfile.TemporaryDirectory() as folder:
        demo_model.write(Path(folder))
        spans = Spans(200_000)
        engine = Engine.load(Path(folder), Mesh.single(), dtype=torch.float32, settings=EngineSettings(), spans=spans)
        _rendered(engine, images[:count], count)  # what is made once
        alone = _rendered(engine, images[: rows // 2], 1)
        began_ns = time.monotonic_ns()
        together = _rendered(engine, images, count)
        ended_ns = time.monotonic_ns()
        alone = alone.plus(_rendered(engine, images[rows // 2 :], 1))
    own = [span for span in spans if span.start_ns >= began_ns and span.end_ns <= ended_ns]
    PICTURE.write_bytes(_picture(own))
    static = [images[at : at + count] for at in range(0, rows, count)]
    steps = sum(image.steps for image in images)
    return {
        "rows": rows,
        "side_px": side_px,
        "slots": count,
        "one at a time": alone.figures(rows) | {"evaluations": steps},
        "together": together.figures(rows) | _occupancy(own),
        "static": _static([[image.steps for image in batch] for batch in static], count),
        "gain": round(alone.cpu_s / together.cpu_s, 3),
    }


@dataclass(frozen=True)
class _Taken:
    cpu_s: float
    wall_s: float

    def plus(self, other: _Taken) -> _Taken:
        return _Taken(self.cpu_s + other.cpu_s, self.wall_s + other.wall_s)

    def figures(self, images: int) -> dict[str, float]:
        return {
            "cpu_s": round(self.cpu_s, 1),
            "images_per_cpu_s": round(images / self.cpu_s, 4),
            "images_per_s": round(images / self.wall_s, 4),
        }


def _images(rows: int, side_px: int) -> list[ImageSpec]:
    random_ = random.Random(20)
    return [
        ImageSpec(
            *(f"scene {number}", None),
            seed=number,
            width=side_px,
            height=side_px,
            steps=random_.randint(LEAST_STEPS, MOST_STEPS),
            guidance_scale=5.0,
            scheduler=SCHEDULERS[number % 3],
        )
        for number in range(rows)
    ]


def _rendered(engine: Engine, images: Sequence[ImageSpec], count: int) -> _Taken:
    """Render images, each as soon as there is a slot."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    left = deque(enumerate(images))
    renders = engine.renders(control=lambda: Control.GO, slots=count)
    while left or renders.count:
        while left and renders.admits(left[0][1]):
            number, image = left.popleft()
            renders.join(image, f"row {number}")
        renders.advance()
    return _Taken(time.process_time() - began_cpu_s, time.perf_counter() - began_s)


def _occupancy(spans: Sequence[Span]) -> dict[str, Any]:
    """Images through slots over all evaluations, and over those before the table was last full."""
    own = [span for span in spans if span.name == RenderSpan.DENOISE and span.track == RANK]
    full = max(place for place, span in enumerate(own) if span.detail["images"] == span.detail["slots"])

    def share(some: Sequence[Span]) -> float:
        made = [(_evaluations(span), span.detail["images"], span.detail["slots"]) for span in some]
        taken, offered = sum(n * images for n, images, _ in made), sum(n * slots_ for n, _, slots_ in made)
        return round(float(taken / offered), 4)

    evaluations = sum(map(_evaluations, own))
    return {"evaluations": evaluations, "occupancy": share(own), "until_rows_run_out": share(own[: full + 1])}


def _evaluations(span: Span) -> int:
    made: int = span.detail["synchronous"] + span.detail["displaced"]
    return made


def _static(batches: Sequence[Sequence[int]], count: int) -> dict[str, Any]:
    """The same of batches that wait for their longest row, by arithmetic: these samplers ask once a step."""
    evaluations = sum(map(max, batches))
    return {"evaluations": evaluations, "occupancy": round(sum(map(sum, batches)) / (evaluations * count), 4)}


def _picture(spans: Sequence[Span]) -> bytes:
    """The first part of it as a timeline."""
    first_ns = min(span.start_ns for span in spans)
    until_ns = first_ns + int(SHOWN * (max(span.end_ns for span in spans) - first_ns))
    shown = tuple(
        SpanRecord(**span.as_dict() | {"end_ns": min(span.end_ns, until_ns)})
        for span in spans
        if span.start_ns < until_ns and span.track != "prompts"
    )
    rank = RankTrace(rank=0, device="cpu", spans=shown)
    return timeline_png(Trace(batch_id="slots", job_index=0, attempt=1, ranks=(rank,)))
