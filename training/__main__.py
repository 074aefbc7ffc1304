"""`python -m training WORK TARGET`: make the demo model from nothing, or go on where it was stopped."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from training import autoencoder, data, denoiser, directory
from training.denoiser import Counts, Plan
from training.stages import Stages

# What made models/demo; training/README.md has what it cost.
VAE_PICTURES, VAE_STEPS, DECODER_STEPS = 600, 1000, 2500
SMALL_PICTURES, LARGE_PICTURES, DETAIL_SCENES = 9000, 5000, 48
NOISIER_FROM = 3500
SMALL_TWINS, LARGE_TWINS = 2000, 1000
PLAN = Plan(
    small_steps=2600, small_batch=16, large_steps=3200, large_batch=8, noisier_from=NOISIER_FROM, place_steps=3600
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder of pictures, latents, checkpoints and logs")
    parser.add_argument("target", type=Path, help="the model directory to write, models/demo say")
    parser.add_argument("--processes", type=int, default=2, help="of the renderer, and ranks that train the UNet")
    parser.add_argument("--share", type=float, default=1.0, help="of all pictures and steps; 0.01 tries it out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in another order would be another model
    make(arguments.work, arguments.target, processes=arguments.processes, share=arguments.share)


def make(work: Path, target: Path, *, processes: int, share: float = 1.0) -> None:
    """All stages in order; each keeps what an earlier run has finished, and notes what it took in `stages.jsonl`."""

    def some(count: int) -> int:
        return max(12, round(count * share))

    plan = replace(
        PLAN,
        small_steps=max(1, round(PLAN.small_steps * share)),
        large_steps=max(1, round(PLAN.large_steps * share)),
        noisier_from=round(NOISIER_FROM * share),
        place_steps=max(1, round(PLAN.place_steps * share)),
    )
    work.mkdir(parents=True, exist_ok=True)
    stages = Stages(work / "stages.jsonl")
    data.render(work, longer=autoencoder.LONGER, count=some(VAE_PICTURES), processes=processes)
    stages.end("pictures for the VAE")
    autoencoder.train(work, pictures=some(VAE_PICTURES), steps=max(1, round(VAE_STEPS * share)))
    stages.end("VAE")
    autoencoder.train_decoder(work, pictures=some(VAE_PICTURES), steps=max(1, round(DECODER_STEPS * share)))
    stages.end("decoder")
    vae = autoencoder.trained(work, pictures=some(VAE_PICTURES))
    data.render(work, longer=128, count=some(SMALL_PICTURES), processes=processes)
    data.render(work, longer=256, count=some(LARGE_PICTURES), processes=processes)
    data.render_details(work, scenes=max(2, round(DETAIL_SCENES * share)), processes=processes)
    for side, scenes in ((128, some(SMALL_TWINS)), (256, some(LARGE_TWINS))):
        data.render_twins(work, side=side, scenes=scenes, processes=processes)
    stages.end("pictures for the UNet")
    counts = Counts(
        some(SMALL_PICTURES),
        some(LARGE_PICTURES),
        max(2, round(DETAIL_SCENES * share)),
        some(SMALL_TWINS),
        some(LARGE_TWINS),
    )
    denoiser.encode_all(work, vae, counts)
    stages.end("latents")
    # Each rank has a share of every batch: faster on two cores than two threads of one process are.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    settings = [json.dumps(asdict(one)) for one in (counts, plan)]
    subprocess.run(
        [*launch, "-m", "training.denoiser", str(work), *settings],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    stages.end("UNet and text encoders")
    directory.write(target, denoiser.trained(work), vae)
    stages.end("directory")


if __name__ == "__main__":
    main()
