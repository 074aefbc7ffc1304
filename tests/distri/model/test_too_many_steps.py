"""The table of steps at which samplers fail, by which rows are refused, against the diffusers that pods run."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers import EulerDiscreteScheduler

from distri.model.sampling.schedulers import SchedulerRecipe
from distri.ranks.errors import UnknownScheduler
from pipeline.promptset.decisions.feasible import TOO_MANY_STEPS
from pipeline.promptset.names.samplers import scheduler_of

SDXL: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


# One solver stands for its kind, which walks alike; walks of a thousand steps take their time.
WALKED = [
    ("leading", "DPMSolverMultistepScheduler"),
    ("leading", "DDIMScheduler"),
    ("linspace", "UniPCMultistepScheduler"),
]


@pytest.mark.parametrize(("spacing", "name"), WALKED)
def test_a_sampler_fails_from_these_steps_on_and_not_before(spacing: str, name: str) -> None:
    own: Any = EulerDiscreteScheduler(**SDXL, timestep_spacing=spacing)
    recipe = SchedulerRecipe("EulerDiscreteScheduler", dict(own.config))
    wanted, least = scheduler_of(name), TOO_MANY_STEPS[spacing][name]
    with pytest.raises(UnknownScheduler):
        recipe.try_out(wanted.name, wanted.settings, steps=least, strength=1.0)
    recipe.try_out(wanted.name, wanted.settings, steps=least - 1, strength=0.01)
