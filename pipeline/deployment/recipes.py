"""How distilled models are sampled: steps, guidance and scheduler that rows get where they say nothing else."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, Field

from pipeline.picture import MAX_STEPS, Scheduler
from pipeline.stored import Record


class Recipe(StrEnum):
    """A family of distilled models, or of LoRAs that make a model one."""

    TURBO = "turbo"
    LIGHTNING = "lightning"
    HYPER = "hyper"
    LCM = "lcm"


class ModelDefaults(Record):
    """What rows get with a model or a LoRA where they say nothing; what is unset stays the deployment's."""

    model_config = ConfigDict(extra="forbid")

    steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="Denoising steps.")
    guidance_scale: float | None = Field(None, ge=0, le=100, description="Up to 1 is off.")
    guidance_rescale: float | None = Field(None, ge=0, le=1, description="Against overexposure.")
    timesteps: tuple[float, ...] | None = Field(
        None, description="Instead of the scheduler's own, for rows that name neither steps nor a scheduler."
    )
    scheduler: Scheduler | None = Field(None, description="By its diffusers class, with settings.")

    def values(self) -> dict[str, Any]:
        """What is set, by name."""
        return {name: value for name, value in self.__dict__.items() if value is not None}


def _trailing(name: str) -> Scheduler:
    return Scheduler(name=name, settings={"timestep_spacing": "trailing"})


# As the models' own pages have them: stabilityai/sdxl-turbo, ByteDance/SDXL-Lightning, ByteDance/Hyper-SD,
# latent-consistency/lcm-lora-sdxl. A guidance of 1 is none.
RECIPES = {
    Recipe.TURBO: ModelDefaults(steps=4, guidance_scale=1.0, scheduler=_trailing("EulerAncestralDiscreteScheduler")),
    Recipe.LIGHTNING: ModelDefaults(steps=4, guidance_scale=1.0, scheduler=_trailing("EulerDiscreteScheduler")),
    Recipe.HYPER: ModelDefaults(steps=8, guidance_scale=1.0, scheduler=_trailing("DDIMScheduler")),
    Recipe.LCM: ModelDefaults(steps=8, guidance_scale=1.0, scheduler=Scheduler(name="LCMScheduler")),
}


def with_recipe(recipe: Recipe | None, own: ModelDefaults | None) -> ModelDefaults:
    """The defaults of a recipe, and over them a model's own."""
    known = RECIPES[recipe].values() if recipe is not None else {}
    return ModelDefaults(**known | (own.values() if own is not None else {}))
