"""Split one diffusers SDXL pipeline over the ranks of torchrun, render two prompts and save them.

    python -m distri.demo_model /tmp/demo-model
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 examples/engine.py /tmp/demo-model /tmp/engine \\
        --layout 1x1x2

Any SDXL pipeline directory takes the place of the demo model, whose pictures show nothing but coloured structure.
"""

import argparse
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.model.model import of_pipeline
from distri.ranks.mesh import Layout, Mesh, default_layout
from distri.sampling.control import Control


def main() -> None:
    """Every rank runs this."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an SDXL pipeline directory")
    parser.add_argument("output", type=Path, help="where the pictures go")
    parser.add_argument("--layout", type=Layout.parse, help="data x cfg x patch, as in 1x2x4; by default one image's")
    parser.add_argument("--exact", action="store_true", help="wait for the other ranks in every evaluation")
    parser.add_argument("--width", type=int, default=208)
    parser.add_argument("--height", type=int, default=304)
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    layout = arguments.layout or default_layout(ranks)
    mesh = Mesh.join(layout, device=device, timeout=timedelta(minutes=5))

    dtype = torch.float16 if device == "cuda" else torch.float32
    pipeline = StableDiffusionXLPipeline.from_pretrained(arguments.model, torch_dtype=dtype, add_watermarker=False)
    pipeline.to(mesh.device)
    pipeline.vae.to(torch.float32)  # SDXL's own VAE overflows in float16
    engine = Engine(of_pipeline(pipeline), mesh, EngineSettings(exact=arguments.exact))

    prompts = ["a photo of a mountain lake at sunrise", "an oil painting of a fishing boat"]
    images = [
        ImageSpec(
            prompt=prompt,
            negative_prompt=None,
            seed=7 + number,
            width=arguments.width,
            height=arguments.height,
            steps=12,
            guidance_scale=5.0,
        )
        for number, prompt in enumerate(prompts)
    ]
    for number, rendered in enumerate(engine.render_batch(images, control=lambda: Control.GO)):
        if rendered.pixels is not None:  # on the leader of each replica
            arguments.output.mkdir(parents=True, exist_ok=True)
            file = arguments.output / f"{mesh.data_index}-{number}.png"
            Image.fromarray(rendered.pixels).save(file)
            counts = rendered.evaluations
            sys.stdout.write(
                f"{file}: {layout}, {counts.synchronous} synchronous and {counts.displaced} displaced evaluations, "
                f"{rendered.denoise_s:.1f} s denoising, {rendered.decode_s:.1f} s decoding, "
                f"{rendered.bytes_sent / 1e6:.1f} MB sent by this rank\n"
            )
    mesh.leave()


if __name__ == "__main__":
    main()
