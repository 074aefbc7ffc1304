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
from distri.model.passes.stages import Highres
from distri.model.sampling.schedulers import Schedule, SchedulerRecipe, Steps
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
    ("PNDMScheduler", {}),
    ("LCMScheduler", {}),
    ("TCDScheduler", {}),
    ("SASolverScheduler", {}),
    ("DDIMParallelScheduler", {}),
]
IMAGES = [replace(PLAIN, scheduler=name, scheduler_settings=settings) for name, settings in SCHEDULERS]
# One of each kind: plain, noise at each step, several steps back, seeded noise, two evaluations a step.
KINDS = [IMAGES[0], IMAGES[2], IMAGES[5], IMAGES[6], IMAGES[9]]


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3")])
def test_every_scheduler_gives_the_picture_of_plain_diffusers_and_serves_one_image(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    images = [*IMAGES, *IMAGES[::-1]] if count == 1 else KINDS
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
    ("EulerDiscreteScheduler", {"zeta": 1, "eta": 1}, "no setting eta, zeta"),
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


SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "leading"}
AYS = (999.0, 845.0, 730.0, 587.0, 443.0, 310.0, 193.0, 116.0, 53.0, 13.0)  # of SDXL, from Align Your Steps


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        *(
            (name, Schedule(timesteps=AYS))
            for name in (
                "EulerDiscreteScheduler",
                "HeunDiscreteScheduler",
                "DDPMScheduler",
                "DPMSolverMultistepScheduler",
                "DPMSolverSinglestepScheduler",
                "LCMScheduler",
                "TCDScheduler",
            )
        ),
        ("EulerDiscreteScheduler", Schedule(sigmas=(14.6, 6.3, 3.8, 2.2, 1.3, 0.9, 0.6, 0.4, 0.2, 0.03))),
    ],
)
def test_a_walk_goes_through_the_timesteps_that_it_is_given(name: str, schedule: Schedule) -> None:
    recipe = SchedulerRecipe("EulerDiscreteScheduler", SDXL)
    recipe.try_out(name, {}, steps=10, strength=1.0, schedule=schedule)
    recipe.try_out(name, {}, steps=10, strength=0.5, schedule=schedule)
    walk = Steps(recipe.make(name, {}, seed=0), 10, torch.Generator(), torch.device("cpu"), schedule=schedule)
    if schedule.timesteps is not None:
        assert sorted(set(walk.timesteps.tolist()), reverse=True) == list(AYS)
    else:
        assert len(walk.timesteps) == 10
        assert walk.timesteps[0] > walk.timesteps[-1] > 0


def test_eta_is_what_a_row_says_and_none_unless_it_does() -> None:
    recipe = SchedulerRecipe("EulerDiscreteScheduler", SDXL)
    ends = []
    for eta in (0.0, 0.0, 1.0):
        scheduler = recipe.make("TCDScheduler", {"eta": eta}, seed=0)
        generator, one = torch.Generator().manual_seed(1), torch.ones(1, 1, 2, 2)
        walk = Steps(scheduler, 4, generator, torch.device("cpu"), schedule=Schedule(eta=eta))
        latent = walk.begin(None, one)
        for timestep in walk.timesteps:
            latent = walk.step(latent * 0.1, timestep, latent)
        ends.append(latent)
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert replace(PLAIN, scheduler_settings={"eta": 0.4}).schedule == Schedule(eta=0.4)


@pytest.mark.parametrize(("name", "settings"), SCHEDULERS)
def test_shares_of_a_schedule_rise_from_nothing_and_end_before_the_whole(
    model_dir: Path, name: str | None, settings: dict[str, Any]
) -> None:
    """What is no longer below 1 is outside of every guidance interval: so PNDM's last steps once had no guidance."""
    recipe = SchedulerRecipe("EulerDiscreteScheduler", reference.pipeline(model_dir).scheduler.config)
    for steps in (5, 30):
        walk = Steps(recipe.make(name, settings, seed=0), steps, torch.Generator(), torch.device("cpu"))
        shares = [walk.share(index) for index in range(len(walk.timesteps))]
        assert shares[0] == 0
        assert shares == sorted(shares)
        assert set(shares) == {step / steps for step in range(steps)}
