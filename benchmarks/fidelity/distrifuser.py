"""One rank of distrifuser on a CPU, started by torchrun: `-m benchmarks.fidelity.distrifuser SITE MODEL NOTE.json`.

SITE is where pip has put it (`pip install --no-deps --target SITE distrifuser==0.0.1b1`). It asks for CUDA and NCCL at
its start and for a module's earlier place in diffusers; that is answered here, and nothing of it is changed.
All ranks are patches of one picture, and both halves of guidance a batch, as in the figures beside it.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from diffusers import StableDiffusionXLPipeline
from diffusers.models.unets import unet_2d_condition

from benchmarks.fidelity.variations import GUIDANCE, SIDE_PX, Variation, images

LATENT = SIDE_PX // 8


@torch.inference_mode()
def main() -> None:
    """Render what the note describes; the first rank writes the pictures as one array beside it."""
    site, model, note = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    variation = Variation.of(json.loads(note.read_text()))
    torch.set_num_threads(1)
    sys.path.append(site)
    pipeline, unet = _pipeline(model, variation.warmup)
    pictures = []
    for image in images(variation):
        unet.set_counter(0)
        noise = torch.randn((1, 4, LATENT, LATENT), generator=torch.Generator().manual_seed(image.seed))
        (picture,) = pipeline(
            image.prompt,
            height=SIDE_PX,
            width=SIDE_PX,
            latents=noise,
            num_inference_steps=image.steps,
            guidance_scale=GUIDANCE,
            output_type="np",
        ).images
        pictures.append((picture * 255).round().astype(np.uint8))
    if dist.get_rank() == 0:
        np.savez(note.with_suffix(".npz"), pixels=np.stack(pictures))
    dist.barrier()
    dist.destroy_process_group()


def _pipeline(model: Path, warmup: int) -> tuple[Any, Any]:
    """diffusers' pipeline with distrifuser's network in it, its buffers made."""
    sys.modules["diffusers.models.unet_2d_condition"] = unet_2d_condition
    utils = importlib.import_module("distrifuser.utils")
    dist.init_process_group("gloo")
    with (
        mock.patch.object(utils, "check_env"),
        mock.patch.object(torch.cuda, "set_device"),
        mock.patch.object(dist, "init_process_group"),
    ):
        config = utils.DistriConfig(
            SIDE_PX, SIDE_PX, split_batch=False, warmup_steps=warmup, mode="corrected_async_gn", use_cuda_graph=False
        )
    config.device = torch.device("cpu")
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    text_width = pipeline.unet.config.cross_attention_dim
    pooled_width = pipeline.text_encoder_2.config.projection_dim
    unet: Any = importlib.import_module("distrifuser.models.distri_sdxl_unet_pp").DistriUNetPP(pipeline.unet, config)
    if config.n_device_per_batch > 1:
        manager = utils.PatchParallelismCommManager(config)
        unet.set_comm_manager(manager)
        for _ in range(2):  # one evaluation counts what the buffers hold, one takes its places in them
            unet.set_counter(0)
            unet(
                torch.zeros(2, 4, LATENT, LATENT),
                torch.zeros(2, dtype=torch.long),
                torch.zeros(2, 77, text_width),
                added_cond_kwargs={"text_embeds": torch.zeros(2, pooled_width), "time_ids": torch.zeros(2, 6)},
                return_dict=False,
                record=True,
            )
            if manager.buffer_list is None:
                manager.create_buffer()
    pipeline.unet = unet
    return pipeline, unet


if __name__ == "__main__":
    main()
