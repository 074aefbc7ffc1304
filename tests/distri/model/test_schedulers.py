"""Schedulers by class and settings, each image its own, against plain diffusers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.model.schedulers import SchedulerRecipe, Steps
from distri.model.stages import Highres
from distri.ranks.errors import UnknownScheduler
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from tests.distri import on_ranks, reference
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True)
PLAIN = ImageSpec("a photo of a cat", None, seed=7, width=96, height=128, steps=5, guidance_scale=5.0)
SCHEDULERS: list[tuple[str | None, dict[str, Any]]] = [
    (None, {"use_karras_sigmas": True}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("DDIMScheduler", {}),
    ("DDPMScheduler", {}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    ("DPMSolverSinglestepScheduler", {"use_karras_sigmas": True}),
    ("UniPCMultistepScheduler", {"solver_order": 3}),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    ("KDPM2DiscreteScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("LCMScheduler", {}),
    ("TCDScheduler", {}),
    ("SASolverScheduler", {}),
    ("DDIMParallelScheduler", {}),
]
IMAGES = [replace(PLAIN, scheduler=name, scheduler_settings=settings) for name, settings in SCHEDULERS]


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3")])
def test_every_scheduler_gives_the_picture_of_plain_diffusers_and_serves_one_image(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    images = [*IMAGES, *IMAGES[::-1]] if count == 1 else IMAGES
    answers = ranks(count).run(on_ranks.render, model_dir, layout, EXACT, images)[0]
    for image, found in zip(images, answers, strict=True):
        _, wanted = reference.render(model_dir, image)
        name = f"{image.scheduler} {image.scheduler_settings}"
        assert np.abs(found.pixels - wanted * 255).max() < 1, name
    for found, again in zip(answers, answers[::-1], strict=True):
        assert count > 1 or np.array_equal(found.pixels, again.pixels)


def test_every_scheduler_makes_a_second_pass(model_dir: Path) -> None:
    engine = Engine.load(
        model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True, native_px=96)
    )
    for image in IMAGES:
        refined = replace(image, width=160, height=160, highres=Highres(refine=True, strength=0.4))
        rendered = engine.render(refined, control=lambda: Control.GO)
        assert (rendered.finite, rendered.blank, len(rendered.stages)) == (True, False, 2), image.scheduler


REFUSED = [
    (None, {"use_karras": True}, "EulerDiscreteScheduler.* no setting use_karras; it has .*use_karras_sigmas"),
    ("DDIMScheduler", {"zeta": 1, "eta": 1}, "no setting eta, zeta"),
    ("LCMScheduler", {"original_inference_steps": 3}, "is smaller than"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "nonsense"}, "nonsense"),
    ("EulerDiscreteScheduler", {"prediction_type": "nonsense"}, "nonsense"),
    ("UniPCMultistepScheduler", {"solver_type": "nonsense"}, "nonsense"),
    ("EulerDiscreteScheduler", {"num_train_timesteps": "many"}, "EulerDiscreteScheduler"),
    ("DPMSolverSDEScheduler", {}, "torchsde"),
    ("LMSDiscreteScheduler", {}, "scipy"),
]


@pytest.mark.parametrize(("name", "settings", "match"), REFUSED)
def test_what_cannot_work_is_refused_before_the_first_step(
    model_dir: Path, name: str | None, settings: dict[str, Any], match: str
) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)

    def never() -> Control:
        raise AssertionError("an evaluation has begun")

    with pytest.raises(UnknownScheduler, match=match):
        engine.render(replace(PLAIN, scheduler=name, scheduler_settings=settings), control=never)


def test_timesteps_that_are_no_whole_numbers_stay_as_they_are(model_dir: Path) -> None:
    pipe = reference.pipeline(model_dir)
    recipe = SchedulerRecipe("EulerDiscreteScheduler", dict(pipe.scheduler.config))
    walk = Steps(recipe.make(None, {"timestep_spacing": "linspace"}, seed=0), 7, torch.Generator(), torch.device("cpu"))
    assert walk.timesteps.is_floating_point()
    assert not torch.equal(walk.timesteps, walk.timesteps.round())


@pytest.mark.parametrize(("strength", "walked"), [(1.0, 10), (0.55, 5), (0.3, 3), (0.01, 1)])
def test_strength_is_the_share_of_whole_steps_that_is_walked(model_dir: Path, strength: float, walked: int) -> None:
    recipe = SchedulerRecipe("EulerDiscreteScheduler", dict(reference.pipeline(model_dir).scheduler.config))
    for name, evaluations in ((None, walked), ("HeunDiscreteScheduler", 2 * walked - 1)):
        scheduler = recipe.make(name, {}, seed=0)
        walk = Steps(scheduler, 10, torch.Generator(), torch.device("cpu"), strength=strength)
        assert len(walk.timesteps) == evaluations
