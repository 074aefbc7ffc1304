"""A whole job on this machine's own stack, by its trace, beside the plain loop of diffusers."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline import Client
from pipeline.bucket.trace import RANK_TRACK, RankTrace, TracePhase, find_trace
from pipeline.client.connect import Connection, connect
from pipeline.client.local_stack import start_stack, stop_stack
from pipeline.errors import NoDeployment

SIDE_PX, STEPS = 256, 20
SLOTS = 4
_START = (TracePhase.LAUNCH, TracePhase.START, TracePhase.MEET, TracePhase.CLAIM, TracePhase.LOAD)


def engine(images: int) -> dict[str, Any]:
    """Wall time of a job's images over the sum of their denoising and decoding, start-up by phase, memory by image."""
    return _job(images, 1) | {"in_slots": {"slots": SLOTS} | _job(images, SLOTS, plain=False)}


def _job(images: int, slots: int, *, plain: bool = True) -> dict[str, Any]:
    """A job of a stack of its own, whose pod has so many slots; and the plain loop."""
    with tempfile.TemporaryDirectory() as directory, mock.patch.dict(os.environ, TESSERA_SLOTS=str(slots)):
        folder = Path(directory)
        # As one job.
        start_stack(folder, detached=False, timeout_s=600, slots=1, gpus=1, images_per_job=images)
        try:
            connection = connect(dict(os.environ) | {"TESSERA_DATA_DIR": directory})
            _await_controller(connection)
            rows = [{"prompt": f"hill {n}", "width": SIDE_PX, "height": SIDE_PX, "steps": STEPS} for n in range(images)]
            batch = Client(connection).submit(rows)
            batch.wait(timeout_s=1800)
            leader = find_trace(connection.artifacts, f"{batch.id}/0", None).ranks[0]
            assert sum(span.name == TracePhase.HAND_OVER for span in leader.spans) == images
            model = next(iter(connection.settings.models.values())).path
            beside = {"plain": _plain(Path(model), images)} if plain else {}
        finally:
            stop_stack(folder)
    return {"images": images, "side_px": SIDE_PX, "steps": STEPS, **_of_trace(leader), **beside}


def _await_controller(connection: Connection) -> None:
    """Return when the deployment says what it renders: until then nothing can be submitted."""
    deadline = time.monotonic() + 300
    while True:
        try:
            connection.ledger.deployment()
        except NoDeployment:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _of_trace(leader: RankTrace) -> dict[str, Any]:
    def spans(*names: str) -> list[Any]:
        return [span for span in leader.spans if span.name in names]

    encode = [span for span in spans(TracePhase.ENCODE) if span.track == RANK_TRACK]  # and not ahead
    done = spans(TracePhase.DENOISE, TracePhase.ENLARGE, TracePhase.DECODE)
    work = [span for span in done if not span.track.startswith("slot")]  # which show what the rank does once more
    first, last = spans(TracePhase.ASK)[0], max(spans("upload"), key=lambda span: int(span.end_ns))
    wall_s = (last.end_ns - first.start_ns) / 1e9
    work_s = sum(span.seconds for span in work)
    start = {name.value: round(sum(s.seconds for s in spans(name)), 2) for name in _START}
    began = min(span.start_ns for span in leader.spans)
    return {
        "wall_s": round(wall_s, 2),
        "denoise_and_decode_s": round(work_s, 2),
        "ratio": round(wall_s / work_s, 4),
        "encode_s": [round(span.seconds, 3) for span in encode],
        "start_s": start | {"to_first_step": round((spans(TracePhase.DENOISE)[0].start_ns - began) / 1e9, 2)},
        "memory_mb": [round(span.detail["memory_bytes"] / 1e6) for span in spans(TracePhase.HAND_OVER)],
    }


def _plain(model: Path, images: int) -> dict[str, Any]:
    """The loop in a process of its own, with as many threads as a rank has."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput.engine", str(model), str(images)],
        env=dict(os.environ) | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _loop(model: str, images: int) -> dict[str, Any]:
    began = time.perf_counter()
    import torch
    from diffusers import StableDiffusionXLPipeline

    torch.set_num_threads(1)
    kind: Any = StableDiffusionXLPipeline
    pipeline = kind.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    loaded = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(images):
            generator = torch.Generator().manual_seed(number)
            size = {"width": SIDE_PX, "height": SIDE_PX, "num_inference_steps": STEPS, "guidance_scale": 5.0}
            image = pipeline(f"hill {number}", generator=generator, **size).images[0]
            image.save(Path(folder) / f"{number}.png")
    ended = time.perf_counter()
    return {"start_s": round(loaded - began, 2), "wall_s": round(ended - loaded, 2)}


if __name__ == "__main__":
    print(json.dumps(_loop(sys.argv[1], int(sys.argv[2]))))
