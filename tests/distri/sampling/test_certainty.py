"""Holes that are filled in rounds: what is certain is found, its variance is right, and it comes first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from distri.layers.conditions import Conditions
from distri.model.passes.stages import Stage
from distri.model.sampling.schedulers import SchedulerRecipe, Steps
from distri.ranks.phase import Evaluation, Phase
from distri.sampling.certainty import LEVELS, SEEDS, STEPS, UNTIL, Filling, Probe, spread, surest, try_out
from distri.sampling.conditions import PassConditions
from distri.sampling.denoising import Denoising, Kept, PassControl, noise
from distri.sampling.guidance import Guidance
from distri.slots.slot import Slot
from pipeline.input_picture import Inpainting, InputMask

SDXL: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
RECIPE, CPU = SchedulerRecipe("DDIMScheduler", SDXL | {"clip_sample": False}), torch.device("cpu")
ALONE = Evaluation(Phase.SYNCHRONOUS, publish=False)
NOTHING = PassConditions.always(Conditions(torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 6)), None)
SIDE = 8


def _steps(seed: int, *, steps: int = STEPS, until: float | None = UNTIL, **settings: Any) -> Steps:
    name = settings.pop("scheduler", "DDIMScheduler")
    made = RECIPE.make(name, settings, seed=seed)
    return Steps(made, steps, torch.Generator().manual_seed(seed), CPU, switch_at=until)


def _numbers(walk: Steps, index: int) -> tuple[float, float]:
    """Of a noisy latent a z + b n."""
    one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    return float(walk.noised(one, none, index)), float(walk.noised(none, one, index))


def _walked(scenes_NCHW: Tensor, kept: Kept, walk: Steps, generator: torch.Generator) -> Slot:
    """A walk with the exact prediction of who knows that each of these scenes is as likely as the others."""
    denoising = Denoising(walk, NOTHING, Guidance(1.0), kept=kept, redraws=generator)
    slot = Slot(walk.begin(None, kept.noise), denoising)
    while slot.left:
        a, b = _numbers(walk, slot.index)
        away_N = (slot.latent_1CHW - a * scenes_NCHW).square().sum(dim=(1, 2, 3))
        likely_N = torch.softmax(-away_N / (2 * b * b), dim=0)
        clean_1CHW = (likely_N[:, None, None, None] * scenes_NCHW).sum(dim=0, keepdim=True)
        slot.step([(slot.latent_1CHW - a * clean_1CHW) / b], ALONE, others=0)
    return slot


def _suns(height: float = 3.0) -> tuple[Tensor, Tensor]:
    """Scenes whose left half is the same and whose right half has a sun in one of four places; and where that is."""
    scenes_NCHW = torch.zeros(4, 1, SIDE, SIDE)
    scenes_NCHW[:, :, :, : SIDE // 2] = torch.linspace(-1, 1, SIDE)[:, None]
    for place in range(4):
        scenes_NCHW[place, :, 2 * place : 2 * place + 2, SIDE - 2 : SIDE] = height
    return scenes_NCHW, (scenes_NCHW.var(dim=0, keepdim=True)[:, :1] > 0).float()


def _mirrored(count: int = 32) -> Tensor:
    """Scenes of which the right half is the left one's mirror image."""
    left_NCHW = torch.randn(count, 1, SIDE, SIDE // 2, generator=torch.Generator().manual_seed(5))
    return torch.cat([left_NCHW, left_NCHW.flip(3)], dim=3)


def _hole() -> Tensor:
    hole_11HW = torch.zeros(1, 1, SIDE, SIDE)
    hole_11HW[:, :, :, SIDE // 2 :] = 1
    return hole_11HW


def _predicted(scenes_NCHW: Tensor, truth: int, count: int, *, until: float | None) -> list[list[Tensor]]:
    """What so many walks of the hidden half of one of the scenes predict."""
    hole_11HW, found = _hole(), []
    for number in range(count):
        generator = torch.Generator().manual_seed(1000 * truth + number)
        noise_1CHW = noise(generator, 1, SIDE, SIDE)
        kept = Kept(scenes_NCHW[truth : truth + 1] * (1 - hole_11HW), noise_1CHW, hole_11HW)
        found.append(_walked(scenes_NCHW, kept, _steps(number, until=until), generator).predicted)
    return found


def _smoothed(x_11HW: Tensor) -> Tensor:
    return functional.avg_pool2d(x_11HW, 3, stride=1, padding=1, count_include_pad=False)


def test_what_is_known_leaves_no_spread_in_a_mirrored_half() -> None:
    scenes_NCHW = _mirrored()
    for truth in range(4):
        predicted = _predicted(scenes_NCHW, truth, SEEDS, until=None)
        assert (spread([one[-1:] for one in predicted]) * _hole()).max() < 1e-3
        assert (predicted[0][-1] - scenes_NCHW[truth]).abs().max() < 1e-2


def test_the_spread_is_the_variance_of_a_sun_that_may_be_anywhere() -> None:
    scenes_NCHW, sun_11HW = _suns()
    found = [one[-1] for one in _predicted(scenes_NCHW, 0, 240, until=None)]
    ours_11HW = torch.stack([spread([[one] for one in found[n : n + SEEDS]]) for n in range(0, 240, SEEDS)]).mean(0)
    # Of the law: a sun of level 3 in one of four places, so that each element's variance is 3/16 of its square.
    law_11HW = _smoothed(9.0 * 3 / 16 * sun_11HW)
    assert float((ours_11HW * law_11HW).sum() / law_11HW.square().sum()) == pytest.approx(1, abs=0.1)
    # Squared error of the mean of four draws, of any of the scenes: 1 + 1/4 times the variance.
    means = torch.cat(found).reshape(-1, SEEDS, 1, SIDE, SIDE).mean(dim=1)
    error_CHW = (means[:, None] - scenes_NCHW[None]).square().mean(dim=(0, 1))
    slope = float((_smoothed(error_CHW[None]) * ours_11HW).sum() / ours_11HW.square().sum()) / (1 + 1 / SEEDS)
    assert slope == pytest.approx(1, abs=0.1)


def test_where_probes_end_what_is_certain_is_told_from_what_is_not() -> None:
    suns_NCHW, sun_11HW = _suns()
    predicted = [one[-LEVELS:] for one in _predicted(suns_NCHW, 0, 4 * SEEDS, until=UNTIL)]
    ours_11HW = torch.stack([spread(predicted[n::4]) for n in range(4)]).mean(0)
    away_11HW = (_smoothed(sun_11HW) == 0).float() * _hole()
    assert (ours_11HW * away_11HW).max() < 1e-6
    assert ours_11HW[sun_11HW > 0].min() > 0.1


def test_what_is_certain_is_held_first_and_what_is_held_is_right() -> None:
    suns_NCHW, sun_11HW = _suns()
    hole_11HW, generator = _hole(), torch.Generator().manual_seed(3)
    filling = Filling(suns_NCHW[:1] * (1 - hole_11HW), hole_11HW, rounds=3)
    unknown, walks = [hole_11HW], 0
    while filling.probe is not None:
        noise_1CHW = noise(generator, 1, SIDE, SIDE)
        assert filling.probe == Probe(walks)
        slot = _walked(suns_NCHW, filling.kept(noise_1CHW), filling.probe.walk(RECIPE, generator, CPU), generator)
        filling.note(slot.predicted, slot.level)
        walks += 1
        unknown.append(filling.kept(noise_1CHW).new)
    assert walks == 2 * SEEDS
    assert [int(one.sum()) for one in unknown[::SEEDS]] == [32, 21, 11]
    first = unknown[0] - unknown[SEEDS]
    # Beside the sun's places the spread is that of its neighbours; of these places themselves none is held.
    assert (first * sun_11HW).sum() == 0
    assert ((filling.picture - suns_NCHW[0]) * first).abs().max() < 0.05
    last = filling.kept(noise_1CHW)
    assert last.later is hole_11HW
    assert 500 <= last.level < 700


def test_what_is_held_is_painted_again_below_the_noise_that_it_was_predicted_at() -> None:
    walk = _steps(0, steps=10, until=None)
    held, whole = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    kept = Kept(held, held, held, whole, level=500.0)
    stayed = [bool((kept.around(whole, walk, index) == 0).all()) for index in range(11)]
    assert stayed == [walk.level(index) >= 500 for index in range(11)]
    assert walk.level(10) == -1


def test_water_rises_from_the_shore() -> None:
    spread_11HW = torch.tensor([[9.0, 1, 5, 0], [9, 8, 4, 0], [9, 2, 3, 0]])[None, None]
    unknown_11HW = torch.tensor([[0.0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]])[None, None]

    def reached(count: int, unknown_11HW: Tensor = unknown_11HW) -> list[tuple[int, ...]]:
        return [tuple(one) for one in surest(spread_11HW, unknown_11HW, count)[0, 0].nonzero().tolist()]

    assert reached(1) == [(0, 1)]  # the zeros on the right lie behind
    assert reached(2) == [(0, 1), (2, 1)]
    assert reached(3) == [(0, 1), (2, 1), (2, 2)]
    assert reached(4) == [(0, 1), (1, 3), (2, 1), (2, 2)]
    assert reached(100) == [tuple(one) for one in unknown_11HW[0, 0].nonzero().tolist()]
    assert reached(1, torch.ones(1, 1, 3, 4)) == [(0, 3)]  # nothing is known
    assert reached(0) == reached(5, torch.zeros(1, 1, 3, 4)) == []


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "HeunDiscreteScheduler",
        "PNDMScheduler",
    ],
)
def test_the_picture_that_a_prediction_means(scheduler: str, prediction: str) -> None:
    if (scheduler, prediction) == ("PNDMScheduler", "sample"):
        pytest.skip("diffusers' has no such prediction")
    walk = _steps(0, until=None, scheduler=scheduler, prediction_type=prediction)
    clean, unit = torch.randn(2, 1, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    for index in range(0, len(walk.timesteps) - 1, walk.order):
        latent = walk.noised(clean, unit, index)
        a, b = _numbers(walk, index)
        both = (a * a + b * b) ** 0.5
        predicts = {"epsilon": unit, "sample": clean, "v_prediction": (a * unit - b * clean) / both}[prediction]
        assert (walk.predicted(predicts, latent, index) - clean).abs().max() < 1e-3
        for _ in range(walk.order):
            walk.step(predicts, walk.timesteps[index], walk.scaled(latent, walk.timesteps[index]))


def test_a_walk_has_its_own_noise_and_shares_of_all_that_steers_and_conditions_the_pass() -> None:
    stage = Stage(64, 64, steps=40, strength=1.0, seed=7)
    seeds = {Probe(number).stage(stage).seed for number in range(16)} | {7}
    assert len(seeds) == 17
    assert Probe(0).stage(stage).steps == STEPS
    nets = [
        PassControl("a", (torch.zeros(1),), 1.0, start, end) for start, end in ((0.0, 1.0), (0.1, 0.25), (0.6, 0.9))
    ]
    assert [(one.start, one.end) for one in Probe(0).control(nets)] == [(0, 1), (0.2, 0.5), (1, 1)]


@pytest.mark.parametrize("own", ["EulerDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_estimates_count_the_walks_of_any_models_scheduler(own: str, spacing: str) -> None:
    mask = InputMask(sha256="a" * 64, width=64, height=64, box=(0, 0, 8, 8))
    recipe = SchedulerRecipe(own, SDXL | {"timestep_spacing": spacing})
    try_out(recipe)
    walk = Probe(0).walk(recipe, torch.Generator(), CPU)
    rounds = [Inpainting(mask=mask, rounds=rounds).probing_evaluations for rounds in (1, 2, 4)]
    assert rounds == [0, SEEDS * len(walk.timesteps), 3 * SEEDS * len(walk.timesteps)]
