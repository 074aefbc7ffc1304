"""Images that join while others are denoised, beside static batches and one at a time: the demo model on a CPU."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distri import demo_model
from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.ranks.mesh import Mesh
from distri.ranks.spans import RenderSpan, Spans
from distri.sampling.control import Control
from pipeline.bucket.trace import RankTrace, SpanRecord, Trace
from pipeline.outputs.timeline import timeline_png

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "slots.png"
SCHEDULERS = (None, "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler")


def slots(rows: int, side_px: int, count: int) -> dict[str, Any]:
    """Images a second of CPU time and occupancy of the same rows, rendered in three ways; one thread."""
    torch.set_num_threads(1)
    random_ = random.Random(20)
    images = [
        ImageSpec(
            *(f"scene {number}", None),
            seed=number,
            width=side_px,
            height=side_px,
            steps=random_.randint(10, 50),
            guidance_scale=5.0,
            scheduler=SCHEDULERS[number % 3],
        )
        for number in range(rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        demo_model.write(Path(folder))
        spans = Spans()
        engine = Engine.load(Path(folder), Mesh.single(), dtype=torch.float32, settings=EngineSettings(), spans=spans)
        _rendered(engine, [images[:count]], count)
        found = {
            "one at a time": _measured(engine, [[image] for image in images], 1),
            "static batches": _measured(engine, [images[at : at + count] for at in range(0, rows, count)], count),
        }
        began_ns = time.monotonic_ns()
        found["slots"] = _measured(engine, [images], count)
    own = tuple(SpanRecord(**span.as_dict()) for span in spans if span.start_ns >= began_ns)
    rank = RankTrace(rank=0, device="cpu", spans=own)
    PICTURE.write_bytes(timeline_png(Trace(batch_id="slots", job_index=0, attempt=1, ranks=(rank,))))
    return {"rows": rows, "side_px": side_px, "slots": count, "found": found}


def _measured(engine: Engine, batches: Sequence[Sequence[ImageSpec]], count: int) -> dict[str, float]:
    began_s = time.process_time()
    evaluations, after_ramp = _rendered(engine, batches, count)
    seconds = time.process_time() - began_s
    images = sum(map(len, batches))
    taken = sum(image.steps for batch in batches for image in batch)
    return {
        "cpu_s": round(seconds, 1),
        "images_per_s": round(images / seconds, 3),
        "occupancy": round(taken / (evaluations * count), 4),
        "occupancy_until_none_is_left": round(after_ramp, 4),
    }


def _rendered(engine: Engine, batches: Sequence[Sequence[ImageSpec]], count: int) -> tuple[int, float]:
    """Render one batch after the other; how many evaluations it took, and how full slots were while rows were left."""
    evaluations = full = offered = 0
    for batch in batches:
        left, first = list(batch), 0
        renders = engine.renders(control=lambda: Control.GO, slots=count)
        while left or renders.count:
            while left and renders.admits(left[0]):
                renders.join(left.pop(0), str(first))
                first += 1
            more = bool(left)
            renders.advance()
            span = [span for span in engine.spans if span.name == RenderSpan.DENOISE and span.track == "rank"][-1]
            made = span.detail["synchronous"] + span.detail["displaced"]
            evaluations += made
            if more:
                full += made * span.detail.get("images", 1)
                offered += made * count
    return evaluations, full / offered if offered else 1.0
