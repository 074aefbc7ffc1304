"""Diffusers schedulers, one new object per image: some keep history, and one that serves two images is a bug."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from distri.errors import UnknownScheduler


@dataclass(frozen=True)
class SchedulerRecipe:
    """The model's own scheduler, from which others are derived.

    Attributes:
        name: its diffusers class name.
        config: its settings.
    """

    name: str
    config: Mapping[str, Any]

    def make(self, name: str | None, *, seed: int) -> Any:
        """A new scheduler: the model's own, or another diffusers class with the model's settings.

        Args:
            name: a diffusers class name; None is the model's own.
            seed: for the few that sample noise by themselves.

        Raises:
            UnknownScheduler: no such class, one that does not read these settings, or one that lacks a package here.
        """
        wanted = name or self.name
        kind: Any = getattr(diffusers, wanted, None)
        own: Any = getattr(diffusers, self.name)
        if not (inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)):
            raise UnknownScheduler(wanted, "diffusers has no scheduler of this name")
        if kind is not own and wanted not in {other.__name__ for other in own(**_known(own, self.config)).compatibles}:
            raise UnknownScheduler(wanted, f"it does not fit a model made for {self.name}")
        changed = {"noise_sampler_seed": seed} if "noise_sampler_seed" in inspect.signature(kind).parameters else {}
        try:
            build: Any = kind.from_config
            return build(dict(self.config), **changed)
        except ImportError as error:
            raise UnknownScheduler(wanted, str(error)) from error


class Steps:
    """One image's walk through its timesteps.

    Args:
        scheduler: new; becomes this walk's own.
        steps: as asked for; a scheduler with two evaluations a step has about twice as many timesteps.
        generator: the image's; what a stochastic scheduler draws, it draws from here, for the whole latent.
        device: of the latent.
    """

    def __init__(self, scheduler: Any, steps: int, generator: torch.Generator, device: torch.device) -> None:
        self._scheduler = scheduler
        scheduler.set_timesteps(steps, device=device)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        self._extra = {"generator": generator} if takes_generator else {}

    @property
    def timesteps(self) -> Tensor:
        """One per evaluation."""
        return torch.as_tensor(self._scheduler.timesteps)

    @property
    def first_sigma(self) -> Tensor:
        """What unit noise is multiplied by to begin with."""
        return torch.as_tensor(self._scheduler.init_noise_sigma)

    def scaled(self, latent: Tensor, timestep: Tensor) -> Tensor:
        """The latent as the network wants it."""
        return torch.as_tensor(self._scheduler.scale_model_input(latent, timestep))

    def step(self, noise: Tensor, timestep: Tensor, latent: Tensor) -> Tensor:
        """The next latent; call it once per timestep, in order."""
        return torch.as_tensor(self._scheduler.step(noise, timestep, latent, **self._extra, return_dict=False)[0])


class BatchSteps:
    """The walks of several images through the same timesteps, side by side.

    Each image keeps a scheduler and a generator of its own, so that it comes out as it would alone, whatever history or
    noise its scheduler has.

    Args:
        walks: one per image, made with the same settings and number of steps.
    """

    def __init__(self, walks: Sequence[Steps]) -> None:
        self._walks = tuple(walks)

    @property
    def timesteps(self) -> Tensor:
        """One per evaluation, the same for all images."""
        return self._walks[0].timesteps

    def scaled(self, latent_BCHW: Tensor, timestep: Tensor) -> Tensor:
        """The latents as the network wants them."""
        own = zip(self._walks, latent_BCHW.chunk(len(latent_BCHW)), strict=True)
        return torch.cat([walk.scaled(latent_1CHW, timestep) for walk, latent_1CHW in own])

    def step(self, noise_BCHW: Tensor, timestep: Tensor, latent_BCHW: Tensor) -> Tensor:
        """The next latents; call it once per timestep, in order."""
        own = zip(self._walks, noise_BCHW.chunk(len(noise_BCHW)), latent_BCHW.chunk(len(latent_BCHW)), strict=True)
        return torch.cat([walk.step(noise_1CHW, timestep, latent_1CHW) for walk, noise_1CHW, latent_1CHW in own])


def _known(kind: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters
    return {key: value for key, value in config.items() if key in parameters}
