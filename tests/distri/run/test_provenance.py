"""Which sampler really rendered, and what the files of LoRAs are known by."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from safetensors.torch import save_file

from distri.model.sampling.schedulers import SchedulerRecipe
from distri.run.provenance import Provenances, scheduler_used, tensors_sha256
from pipeline.deployment.settings import LoraSource
from pipeline.picture import Lora
from pipeline.promptset.names.samplers import scheduler_of, shown_name
from pipeline.records.shards import ImageTask
from tests.factories import image_result, resolved_row


def _recipe(kind: Any, **settings: Any) -> SchedulerRecipe:
    scheduler = kind(**settings)
    return SchedulerRecipe(kind.__name__, dict(scheduler.config))


@pytest.mark.parametrize(
    ("recipe", "asked", "shown"),
    [
        (_recipe(EulerDiscreteScheduler, timestep_spacing="leading"), None, "Euler"),
        (_recipe(DPMSolverMultistepScheduler, use_karras_sigmas=True), None, "DPM++ 2M Karras"),
        (_recipe(EulerDiscreteScheduler, timestep_spacing="trailing"), "DDIM", "DDIM"),
        # What a row leaves open, the model's own settings decide.
        (_recipe(DPMSolverMultistepScheduler, use_karras_sigmas=True), "Euler", "Euler Karras"),
    ],
)
def test_the_sampler_that_renders_is_named_also_where_the_row_named_none(
    recipe: SchedulerRecipe, asked: str | None, shown: str
) -> None:
    used = scheduler_used(recipe, scheduler_of(asked) if asked else None)
    assert shown_name(used) == shown
    real = recipe.make(used.name, used.settings, seed=0)
    assert all(real.config[name] == value for name, value in used.settings.items())


def test_the_provenance_of_an_image_names_its_sampler_and_both_hashes_of_its_loras(tmp_path: Path) -> None:
    path = tmp_path / "film.safetensors"
    save_file({"a": torch.ones(3)}, path, metadata={"any": "header"})
    body = path.read_bytes()
    source = LoraSource(path=str(path), sha256=hashlib.sha256(body).hexdigest())
    task = ImageTask(resolved_row(loras=(Lora(name="film"),)), 0)
    of_job = image_result(task).provenance
    made = Provenances(of_job, _recipe(EulerDiscreteScheduler), {"film": source}, {}, lean=(0,)).of(task)
    tensors = hashlib.sha256(torch.ones(3).numpy().tobytes()).hexdigest()
    assert (made.loras, made.lora_tensors) == ({"film": source.sha256}, {"film": tensors})
    assert (made.sampler, made.lean, made.scheduler and made.scheduler.name) == (
        "Euler",
        True,
        "EulerDiscreteScheduler",
    )
    assert tensors_sha256(path) == tensors
