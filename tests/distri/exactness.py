"""How far split networks and renders are from plain diffusers in float32; the benchmark asks for more than the tests.

`wanted` functions run plain diffusers in one process; `found` functions run on every rank and give each rank's part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from distri.engine import EngineSettings
from distri.layers.conditions import Conditions
from distri.layers.unet import SplitUNet
from distri.model.image import ImageSpec
from distri.ranks.phase import EXACT, Evaluation, Phase
from distri.sampling.control import Control
from tests.distri import networks, on_ranks, reference
from tests.distri.networks import relative, seeded

# Width and height in pixels. The longer side has at least the eight units of 32 pixels that eight patches need.
SIZES = [(256, 256), (264, 248), (232, 232), (208, 304), (304, 208), (480, 272), (136, 328), (248, 376)]
LAYOUTS = {1: "1x1x1", 2: "1x1x2", 3: "1x1x3", 4: "1x2x2", 5: "1x1x5", 8: "1x1x8"}
ONE_EVALUATION, SIX_STEPS = 1e-5, 1e-4  # the bounds: largest difference relative to the largest value

TIME = torch.tensor(501.25)
IMAGE = ImageSpec("a photo of a cat", "blurry", seed=7, width=256, height=256, steps=6, guidance_scale=5.0)
OTHER = replace(IMAGE, prompt="a castle on a hill", negative_prompt="", seed=1234)


def images(width: int, height: int, batch: int) -> list[ImageSpec]:
    """One image, or two of different prompts and seeds."""
    return [replace(image, width=width, height=height) for image in (IMAGE, OTHER)[:batch]]


def conditions_of(batch: int) -> Conditions:
    """Conditions of the small UNet."""
    return Conditions(
        seeded(5, batch, networks.TEXT_TOKENS, networks.TEXT_WIDTH, dtype=torch.float32),
        seeded(6, batch, networks.POOLED_WIDTH, dtype=torch.float32),
        torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 48.0]] * batch),
    )


def latent(width: int, height: int, batch: int) -> Tensor:
    """Whole latents for an image size in pixels."""
    return seeded(9, batch, 4, height // 8, width // 8, dtype=torch.float32)


@cache
@torch.inference_mode()
def wanted_evaluation(width: int, height: int, batch: int) -> Tensor:
    """What the plain UNet predicts."""
    conditions, unet = conditions_of(batch), networks.unet(torch.float32)
    added = {"text_embeds": conditions.pooled, "time_ids": conditions.time_ids}
    noisy, text = latent(width, height, batch), conditions.text
    return torch.as_tensor(unet(noisy, TIME, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0])


@torch.inference_mode()
def found_evaluations(cases: Sequence[tuple[int, int, int]]) -> list[tuple[Tensor, Tensor]]:
    """Per case (width, height, batch) this rank's rows of an exact evaluation, and of the second displaced one."""
    mesh = on_ranks.mesh()
    unet = SplitUNet(networks.unet(torch.float32))
    displaced = Evaluation(Phase.DISPLACED, publish=True)
    answers = []
    for width, height, batch in cases:
        unet.begin(conditions_of(batch), mesh.patch, height // 8, width // 8)
        noisy = latent(width, height, batch)
        exact = unet(noisy, TIME, EXACT).clone()
        last = exact
        if mesh.patch.size > 1:
            for evaluation in (Evaluation(Phase.SYNCHRONOUS, publish=True), displaced, displaced):
                last = unet(noisy, TIME, evaluation)
        answers.append((exact, last.clone()))
        unet.end()
    unet.remove()
    return answers


def joined(parts: Sequence[Tensor], width: int, height: int) -> Tensor:
    """The whole from the ranks' rows, or columns where the image is wider than high."""
    return torch.cat(list(parts), dim=3 if width > height else 2)


@dataclass(frozen=True)
class Picture:
    """The end of a render: the final latent, and the decoded image as floats of -1 to 1."""

    latent: Tensor
    decoded: Tensor


def wanted_pictures(model_dir: Path, batch: Sequence[ImageSpec]) -> list[Picture]:
    """What a plain pipeline renders, each image by itself."""
    pictures = []
    for image in batch:
        final, pixels = reference.render(model_dir, image)
        pictures.append(Picture(final, torch.from_numpy(pixels).permute(2, 0, 1)[None] * 2 - 1))
    return pictures


def found_pictures(model_dir: Path, layout: str, batches: Sequence[Sequence[ImageSpec]]) -> list[list[Picture]]:
    """What the engine renders in exact mode; decoded is this rank's part."""
    engine = on_ranks.engine(model_dir, layout, EngineSettings(exact=True))
    answers = []
    for batch in batches:
        latents: list[Tensor] = []
        engine.render_batch(batch, control=lambda: Control.GO, on_final_latent=latents.append)
        own = []
        for final in latents:
            patch, _ = engine.decode_patch(final)
            own.append(Picture(final.clone(), patch.clamp(-1, 1).clone()))
        answers.append(own)
    return answers


def picture_error(answers: Sequence[Picture], wanted: Picture, width: int, height: int) -> float:
    """The larger of the errors of latent (on the worst rank) and decoded image."""
    decoded = joined([answer.decoded for answer in answers], width, height)
    latents = max(relative(answer.latent, wanted.latent) for answer in answers)
    return max(latents, relative(decoded, wanted.decoded))
