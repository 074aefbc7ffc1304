"""Guidance between two shares of the schedule alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist

from distri.engine import Engine, EngineSettings
from distri.layers.unet import SplitUNet
from distri.model.image import ImageSpec, Rendered
from distri.ranks.errors import BadImage
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from distri.sampling.guidance import Guidance
from tests.distri import on_ranks, reference
from tests.distri.pool import Ranks
from tests.distri.test_composed import BOTH

IMAGE = ImageSpec("a cat", "blurry", seed=7, width=64, height=64, steps=5, guidance_scale=5.0)


@torch.inference_mode()
def _wanted(directory: Path, image: ImageSpec) -> npt.NDArray[np.float32]:
    """The same by diffusers' parts, one step after the other; floats of 0 to 1."""
    pipe: Any = reference.pipeline(directory)
    scheduler = reference.scheduler(directory, image)
    positive, negative, pooled, negative_pooled = pipe.encode_prompt(
        image.prompt, negative_prompt=image.negative_prompt
    )
    scheduler.set_timesteps(image.steps)
    size = (image.height, image.width)
    time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32)
    latent = torch.randn(1, 4, size[0] // 8, size[1] // 8, generator=torch.Generator().manual_seed(image.seed))
    latent = latent * scheduler.init_noise_sigma
    first, end = image.guidance_interval
    for index, timestep in enumerate(scheduler.timesteps):
        x = scheduler.scale_model_input(latent, timestep)

        def predicted(text: torch.Tensor, pooled: torch.Tensor, x: torch.Tensor = x, timestep: Any = timestep) -> Any:
            added = {"text_embeds": pooled, "time_ids": time_ids}
            return pipe.unet(x, timestep, encoder_hidden_states=text, added_cond_kwargs=added).sample

        noise = predicted(positive, pooled)
        if first <= index // scheduler.order / image.steps < end:
            without = predicted(negative, negative_pooled)
            noise = without + image.guidance_scale * (noise - without)
        latent = scheduler.step(noise, timestep, latent).prev_sample
    return reference.decoded(directory, latent)


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.2, 0.8), (0.6, 1.0)])
def test_the_picture_is_that_of_plain_diffusers_with_the_same_rule(
    model_dir: Path, interval: tuple[float, float], scheduler: str
) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings())
    image = replace(IMAGE, guidance_interval=interval, scheduler=scheduler)
    found = engine.render(image, control=lambda: Control.GO).pixels
    assert found is not None
    assert np.abs(found - _wanted(model_dir, image) * 255).max() < 1


def _on_four_ranks(model_dir: Path, image: ImageSpec) -> tuple[Rendered, list[int]]:
    """An image, and how many ranks shared its latent, each time that this changed; no rank makes a group."""
    engine = on_ranks.engine(model_dir, "1x2x2", EngineSettings(exact=True, native_px=64))
    shared: list[int] = []

    def begins(unet: SplitUNet, conditions: Any, axis: Any, *args: Any, **options: Any) -> Any:
        shared.append(axis.size)
        return begin(unet, conditions, axis, *args, **options)

    begin = SplitUNet.begin
    with mock.patch.object(SplitUNet, "begin", begins), mock.patch.object(dist, "new_group", _no_group):
        return engine.render(image, control=lambda: Control.GO), shared


def _no_group(*_: Any, **__: Any) -> None:
    raise AssertionError("a process group is made in mid-image")


def test_halves_that_have_ranks_of_their_own_become_patches_where_there_is_no_guidance(
    ranks: Callable[[int], Ranks], model_dir: Path
) -> None:
    """cfg 2 x patch 2 is patch 4 before and after the interval."""
    image = replace(IMAGE, width=128, height=128, guidance_interval=(0.2, 0.8))
    answers = ranks(4).run(_on_four_ranks, model_dir, image)
    assert [shared for _, shared in answers] == [[4, 2, 4]] * 4
    assert np.abs(answers[0][0].pixels - _wanted(model_dir, image) * 255).max() < 1


@pytest.mark.parametrize(
    ("interval", "guided"),
    [((0.0, 1.0), [0, 1, 2, 3, 4]), ((0.2, 0.8), [1, 2, 3]), ((0.3, 0.7), [2, 3]), ((0.9, 1.0), []), ((0.0, 0.2), [0])],
)
def test_a_step_is_guided_by_the_share_that_is_over_before_it(interval: tuple[float, float], guided: list[int]) -> None:
    guidance = Guidance(5.0, interval=interval)
    assert [step for step in range(5) if guidance.on_at(step / 5)] == guided
    assert not Guidance(1.0, interval=interval).on_at(0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance_interval": (0.8, 0.2)}, "0.8 to 0.2"),
        ({"guidance_interval": (0.0, 1.5)}, "0 to 1.5"),
        ({"guidance_interval": (0.2, 0.8), "prompt": BOTH}, "joined by AND"),
    ],
)
def test_an_interval_that_cannot_be_is_refused(model_dir: Path, changes: dict[str, Any], words: str) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings())
    with pytest.raises(BadImage, match=words):
        engine.render(replace(IMAGE, **changes), control=lambda: Control.GO)
