"""Diffusers schedulers, one new object per image: some keep history, and one that serves two images is a bug."""

import inspect
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from distri.model.passes.stages import Part
from distri.model.sampling.host_numbers import HostNumbers, upload
from distri.ranks.errors import UnknownScheduler

# They read the settings of any SDXL model, which diffusers does not say of them; the first two want weights (a LoRA,
# say) that were made for them.
_FIT_AS_WELL = ("LCMScheduler", "TCDScheduler", "SASolverScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler")

# The one setting of a row that a scheduler takes with each step and not when it is made: how much noise is added anew.
ETA = "eta"

# Their steps are Euler's in x = z + sigma n, so that a smaller picture's are those of a cascade, and they keep no
# history. Others interpolate in other numbers, or remember evaluations of another size.
CASCADING = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")

# What diffusers raises for settings that do not fit together; it depends on the scheduler.
_REFUSALS = (ValueError, TypeError, NotImplementedError, AttributeError, IndexError, KeyError, ArithmeticError)


@dataclass(frozen=True)
class Schedule:
    """What one image asks of its walk beside the scheduler's own settings.

    Attributes:
        eta: share of noise that each step adds anew, 0 to 1, for DDIM and TCD.
        timesteps: falling, one per step, 0 to 999 for SDXL.
        sigmas: falling, one per step, without the last one, which is 0.
    """

    eta: float = 0.0
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None


OWN_SCHEDULE = Schedule()


@dataclass(frozen=True)
class SchedulerRecipe:
    """The model's own scheduler, from which others are derived.

    Attributes:
        name: its diffusers class name.
        config: its settings.
    """

    name: str
    config: Mapping[str, Any]

    def make(self, name: str | None, settings: Mapping[str, Any], *, seed: int) -> Any:
        """A new scheduler: the model's own, or another diffusers class with the model's settings.

        Args:
            name: a diffusers class name; None is the model's own.
            settings: what differs from the model's, by the class's parameters.
            seed: for the few that sample noise by themselves.

        Raises:
            UnknownScheduler: no such class or setting, one that does not read the model's settings, or one that lacks
                a package here.
        """
        wanted = name or self.name
        kind: Any = getattr(diffusers, wanted, None)
        own: Any = getattr(diffusers, self.name)
        if needed := getattr(kind, "_backends", None):  # what diffusers puts in the place of a class it cannot import
            raise UnknownScheduler(wanted, f"it needs packages that are not all installed: {', '.join(needed)}")
        if not (inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)):
            raise UnknownScheduler(wanted, "diffusers has no scheduler of this name")
        fitting = {self.name, *(one.__name__ for one in own._get_compatibles()), *_FIT_AS_WELL}
        if wanted not in fitting:
            raise UnknownScheduler(wanted, f"it does not fit a model made for {self.name}")
        parameters = inspect.signature(kind).parameters
        if ETA in inspect.signature(kind.step).parameters:
            settings = {key: value for key, value in settings.items() if key != ETA}
        if unknown := sorted(settings.keys() - parameters.keys()):
            raise UnknownScheduler(
                wanted, f"it has no setting {', '.join(unknown)}; it has {', '.join(sorted(parameters))}"
            )
        changed = {"noise_sampler_seed": seed} if "noise_sampler_seed" in parameters else {}
        try:
            build: Any = kind.from_config
            return build(dict(self.config), **changed, **settings)
        except (ImportError, *_REFUSALS) as error:
            raise UnknownScheduler(wanted, _first_line(error)) from error

    def try_out(
        self,
        name: str | None,
        settings: Mapping[str, Any],
        *,
        steps: int,
        strength: float,
        schedule: Schedule = OWN_SCHEDULE,
        keeps: bool = False,
        part: Part | None = None,
    ) -> None:
        """Walk through all timesteps with a latent of one element; refuses what would fail in the middle of an image.

        `keeps`: something of a picture stays, so that noise is added to it at every step.

        Raises:
            UnknownScheduler: as `make`, or the walk fails or leaves the finite numbers.
        """
        scheduler = self.make(name, settings, seed=0)
        try:
            generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
            walk = Steps(scheduler, steps, generator, cpu, strength=strength, schedule=schedule, part=part)
            one = torch.ones(1, 1, 1, 1)
            latent = walk.begin(None if strength >= 1 or part is not None else one, one)
            for index, timestep in enumerate(walk.timesteps, 1):
                latent = walk.step(walk.scaled(latent, timestep), timestep, latent)
                if keeps:
                    walk.noised(one, one, index)
        except _REFUSALS as error:
            raise UnknownScheduler(name or self.name, _first_line(error)) from error
        if not bool(torch.isfinite(latent).all()):
            raise UnknownScheduler(name or self.name, "with these settings its steps lead out of the finite numbers")


class Steps:
    """One image's walk through its timesteps, or through the last share of them.

    The scheduler's tables and timesteps are on the CPU wherever the latent is, and no step waits for the device.

    Args:
        scheduler: new; becomes this walk's own.
        steps: as asked for; a scheduler with two evaluations a step has about twice as many timesteps.
        generator: the image's; what a stochastic scheduler draws, it draws from here, for the whole latent.
        device: of the latent.
        strength: share of the steps that is walked, the last ones; at least one step is.
        switch_at: share of the noise schedule after which a refiner takes over; None is without one.
        refines: whether this walk is the refiner's, which has what the other leaves; maybe nothing.
        schedule: what differs from the scheduler's own; timesteps or sigmas count if there are `steps` of them.
        part: what of the schedule is walked instead of a share of it, and of which smaller picture.
    """

    def __init__(
        self,
        scheduler: Any,
        steps: int,
        generator: torch.Generator,
        device: torch.device,
        *,
        strength: float = 1.0,
        switch_at: float | None = None,
        refines: bool = False,
        schedule: Schedule = OWN_SCHEDULE,
        part: Part | None = None,
    ) -> None:
        self._scheduler, self._device, self._steps = scheduler, device, steps
        self.grows = part is not None and part.halvings > 0  # a larger picture goes on where it ends
        if schedule.timesteps is not None and len(schedule.timesteps) == steps:
            scheduler.set_timesteps(timesteps=list(schedule.timesteps), device="cpu")
        elif schedule.sigmas is not None and len(schedule.sigmas) == steps:
            scheduler.set_timesteps(sigmas=[*schedule.sigmas, 0.0], device="cpu")
        else:
            scheduler.set_timesteps(steps, device="cpu")
        # As diffusers' image-to-image pipelines count: whole steps, each of `order` timesteps.
        left_out = steps - min(max(1, int(steps * strength)), steps)
        first, end = left_out * scheduler.order, len(scheduler.timesteps)
        switch = end if switch_at is None else max(_before(scheduler, switch_at), first + scheduler.order)
        self.steps_before = (switch - first) // scheduler.order if refines else 0  # that the base model walks
        first, end = (min(switch, end), end) if refines else (first, switch)
        if part is not None:
            first, end = part.first, part.end
            _walk_smaller(scheduler, part)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        self._every = torch.as_tensor(scheduler.timesteps)
        self._timesteps, self._first = self._every[first:end], int(first)
        # What diffusers' pipelines hand over; without an eta of 0 TCD would have one of its own.
        taken = inspect.signature(scheduler.step).parameters
        self._extra = {name: value for name, value in (("generator", generator), (ETA, schedule.eta)) if name in taken}

    @property
    def timesteps(self) -> Tensor:
        """One per evaluation, on the CPU."""
        return self._timesteps

    @property
    def order(self) -> int:
        """How many evaluations a step has; the last one may have fewer."""
        return int(self._scheduler.order)

    @property
    def sigma(self) -> float:
        """The noise before the first evaluation, of a scheduler whose tables hold it."""
        return float(self._scheduler.sigmas[self._first])

    def share(self, index: int) -> float:
        """Share of the schedule's steps that lie before this evaluation's step, those that are not walked included."""
        steps = -(-len(self._every) // self.order)  # PNDM evaluates more often than its order says
        return (self._first + index) // self.order * self._steps // steps / self._steps

    def timesteps_on_device(self) -> Tensor:
        """The same where the latent is, for the network."""
        return self._timesteps if self._device.type == "cpu" else upload(self._timesteps, self._device)

    def begin(self, latent: Tensor | None, noise: Tensor) -> Tensor:
        """What the walk begins with: unit noise as this scheduler scales it, or noise added to a latent."""
        if latent is None:
            return noise * torch.as_tensor(self._scheduler.init_noise_sigma)
        return self._noised(latent, noise, self._timesteps[:1])

    def noised(self, latent: Tensor, noise: Tensor, index: int) -> Tensor:
        """A latent with as much noise as there is before evaluation `index`, once the one before has been stepped.

        After the last one of the schedule, the latent as it is.
        """
        level = self._every[self._first + index :][:1]
        return self._noised(latent, noise, level) if len(level) else latent

    def _noised(self, latent: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        tables = {name: value for name, value in vars(self._scheduler).items() if isinstance(value, Tensor)}
        with self._host_numbers():
            noised = torch.as_tensor(self._scheduler.add_noise(latent, noise, timestep))
        vars(self._scheduler).update(tables)  # some bring them to the latent for good
        return noised

    def level(self, index: int) -> float:
        """The timestep of evaluation `index`, or of what is after the last one; below 0 at the schedule's end."""
        level = self._every[self._first + index :][:1]
        return float(level) if len(level) else -1.0

    def predicted(self, prediction: Tensor, latent: Tensor, index: int) -> Tensor:
        """The latent without noise as the network sees it; before evaluation `index` is stepped, from its prediction.

        A latent is a z + b n, by which numbers the scheduler's own noise says. Networks predict n, z, or, with
        alpha = a / sqrt(a^2 + b^2) and sigma likewise, alpha n - sigma z (Salimans and Ho 2022, appendix D).
        """
        one, none = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        a, b = float(self.noised(one, none, index)), float(self.noised(none, one, index))
        kind = self._scheduler.config.get("prediction_type", "epsilon")
        if kind in {"sample", "original_sample"}:
            return prediction
        if kind == "v_prediction":
            return (a * latent - b * math.hypot(a, b) * prediction) / (a * a + b * b)
        return (latent - b * prediction) / a

    def scaled(self, latent: Tensor, timestep: Tensor) -> Tensor:
        """The latent as the network wants it; `timestep` is one of `timesteps`."""
        with self._host_numbers():
            return torch.as_tensor(self._scheduler.scale_model_input(latent, timestep))

    def step(self, noise: Tensor, timestep: Tensor, latent: Tensor) -> Tensor:
        """The next latent; call it once per timestep, in order."""
        with self._host_numbers():
            return torch.as_tensor(self._scheduler.step(noise, timestep, latent, **self._extra, return_dict=False)[0])

    def _host_numbers(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._device.type == "cpu" else HostNumbers()


def _walk_smaller(scheduler: Any, part: Part) -> None:
    """Set the noise to that of the smaller picture of a cascade, and timesteps to those that the network knows it by.

    Raises:
        UnknownScheduler: it does not walk so, or the smaller picture would have less noise than the network knows.
    """
    name = type(scheduler).__name__
    if name not in CASCADING or getattr(scheduler.config, "timestep_type", "discrete") != "discrete":
        raise UnknownScheduler(name, f"no cascade of smaller pictures with it; one wanted of {', '.join(CASCADING)}")
    if not part.halvings:
        return
    scheduler.sigmas = scheduler.sigmas / 2**part.halvings
    trained = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().numpy().astype(np.float64)
    sigmas = scheduler.sigmas[:-1].numpy().astype(np.float64)
    if sigmas[part.first : part.end].min(initial=np.inf) < trained[0]:
        raise UnknownScheduler(name, f"less noise in a smaller picture than the model knows, {trained[0]:.3g}")
    at = np.interp(np.log(np.maximum(sigmas, trained[0])), np.log(trained), np.arange(len(trained)))
    scheduler.timesteps = torch.from_numpy(at.astype(np.float32))


def _before(scheduler: Any, share: float) -> int:
    """How many timesteps come before this share of the noise schedule, as diffusers' `denoising_end` counts them.

    In whole steps: where a step has two evaluations, the second is at the noise level that the next step begins with.
    """
    trained = scheduler.config.num_train_timesteps
    cutoff = round(trained - share * trained)
    before = int((torch.as_tensor(scheduler.timesteps) >= cutoff).sum())
    return before - before % int(scheduler.order)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
