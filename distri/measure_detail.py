"""Measure what detail a model's latents have: `python -m distri.measure_detail MODEL PROMPTS.txt`.

Renders a picture of the model's own size for each line, and keeps what their latents' finest detail is beside the model
(`distri.model.passes.latent_detail`), where a cascade reads it.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.model.passes.latent_detail import LatentDetail
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from distri.sampling.haar import analysed, smooth_detail

_MEDIAN_SQUARE = 0.4549364  # of unit Gaussian numbers: the median of chi squared with one degree of freedom


def detail_of(latents_BCHW: Tensor) -> LatentDetail:
    """The detail of latents without noise, by linear regression on what a smaller latent foresees; sides are even.

    The variance around what is expected is that of Gaussian numbers with the same median square: what is far from it,
    at edges, has shapes that noise does not resemble.
    """
    coefficients_BC4HW = analysed(latents_BCHW.double())
    detail_BC3HW = coefficients_BC4HW[:, :, 1:]  # its mean is 0
    # A picture of half the sides shows the mean of four, half the first coefficient.
    foreseen_BC3HW = smooth_detail(coefficients_BC4HW[:, :, 0] / 2)
    common_C3, foreseen_C3 = ((one * foreseen_BC3HW).mean(dim=(0, 3, 4)) for one in (detail_BC3HW, foreseen_BC3HW))
    slopes_C3 = torch.where(foreseen_C3 > 0, common_C3 / foreseen_C3, 0.0)
    left_BC3HW = detail_BC3HW - slopes_C3[:, :, None, None] * foreseen_BC3HW
    medians_C3 = left_BC3HW.square().movedim(0, 2).flatten(2).median(dim=2).values
    return LatentDetail(len(latents_BCHW), _rounded(medians_C3 / _MEDIAN_SQUARE), _rounded(slopes_C3))


def _rounded(table_C3: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(one, 6) for one in row) for row in table_C3.tolist())


def measured(
    model: Path, prompts: list[str], *, side_px: int | None, steps: int, guidance_scale: float, device: str
) -> LatentDetail:
    """The detail of latents that a model makes of prompts, one picture each."""
    half = device == "cuda"
    mesh = Mesh.single(device=device)
    settings = EngineSettings(exact=True, native_px=side_px)
    engine = Engine.load(model, mesh, dtype=torch.float16 if half else torch.float32, settings=settings)
    side = engine.native_px
    found: list[Tensor] = []
    for number, prompt in enumerate(prompts):
        image = ImageSpec(prompt, None, number, side, side, steps, guidance_scale)
        engine.render(image, control=lambda: Control.GO, on_final_latent=lambda one: found.append(one.float().cpu()))
    return detail_of(torch.cat(found))


def main() -> None:
    """Measure and write; says where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a diffusers folder or a single file")
    parser.add_argument("prompts", type=Path, help="a text file, a prompt a line; some twenty, unlike each other")
    parser.add_argument("--side", type=int, help="of a picture, in pixels; as the model says, if not given")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    prompts = [line for line in asked.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        parser.error(f"{asked.prompts} holds no prompt; one a line wanted")
    found = measured(
        asked.model,
        prompts,
        side_px=asked.side,
        steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        device=asked.device,
    )
    sys.stdout.write(f"{found.write(asked.model)}\n")


if __name__ == "__main__":
    main()
