"""`python -m training WORK TARGET`: make the demo model from nothing, or go on where it was stopped."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from training import autoencoder, data, denoiser, directory
from training.denoiser import Plan

# What fits 75 minutes on 2 cores; training/README.md has the measurements.
VAE_PICTURES, VAE_STEPS = 1200, 7000
SMALL_PICTURES, LARGE_PICTURES, DETAIL_SCENES = 9000, 6000, 60
PLAN = Plan(small_steps=6000, small_batch=24, large_steps=6000, large_batch=12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder of pictures, latents, checkpoints and logs")
    parser.add_argument("target", type=Path, help="the model directory to write, models/demo say")
    parser.add_argument("--threads", type=int, default=2, help="of torch and of the renderer")
    parser.add_argument("--share", type=float, default=1.0, help="of all pictures and steps; 0.01 tries the way")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make(arguments.work, arguments.target, processes=arguments.threads, share=arguments.share)


def make(work: Path, target: Path, *, processes: int, share: float = 1.0) -> None:
    """All stages in order; each keeps what an earlier run has finished, and notes what it took in `stages.jsonl`."""

    def some(count: int) -> int:
        return max(12, round(count * share))

    plan = Plan(
        max(1, round(PLAN.small_steps * share)),
        PLAN.small_batch,
        max(1, round(PLAN.large_steps * share)),
        PLAN.large_batch,
    )
    work.mkdir(parents=True, exist_ok=True)
    stages = _Stages(work / "stages.jsonl")
    data.render(work, longer=autoencoder.LONGER, count=some(VAE_PICTURES), processes=processes)
    stages.end("pictures for the VAE")
    autoencoder.train(work, pictures=some(VAE_PICTURES), steps=max(1, round(VAE_STEPS * share)))
    stages.end("VAE")
    vae = autoencoder.trained(work, pictures=some(VAE_PICTURES))
    data.render(work, longer=128, count=some(SMALL_PICTURES), processes=processes)
    data.render(work, longer=256, count=some(LARGE_PICTURES), processes=processes)
    data.render_details(work, scenes=max(2, round(DETAIL_SCENES * share)), processes=processes)
    stages.end("pictures for the UNet")
    small = denoiser.encode(work, vae, longer=128, count=some(SMALL_PICTURES))
    large = denoiser.encode(work, vae, longer=256, count=some(LARGE_PICTURES))
    detail = denoiser.details(work, vae, scenes=max(2, round(DETAIL_SCENES * share)))
    stages.end("latents")
    denoiser.train(work, plan, small=small, large=large, detail=detail)
    stages.end("UNet and text encoders")
    directory.write(target, denoiser.trained(work), vae)
    stages.end("directory")


class _Stages:
    """Wall and CPU seconds, children's included, of each stage of this run."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, self._now()

    def end(self, stage: str) -> None:
        now = self._now()
        wall_s, cpu_s = (after - before for before, after in zip(self._last, now, strict=True))
        with self._path.open("a") as file:
            file.write(json.dumps({"stage": stage, "wall_s": round(wall_s, 1), "cpu_s": round(cpu_s, 1)}) + "\n")
        self._last = now

    @staticmethod
    def _now() -> tuple[float, float]:
        import os

        times = os.times()
        return time.monotonic(), times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
