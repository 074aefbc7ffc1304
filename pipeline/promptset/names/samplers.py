"""Schedulers by the names that users know: which diffusers class each means, and which settings that class reads.

A plain table with its readers, some 300 lines, because the client that refuses a wrong row has neither torch nor
diffusers. A test compares it with the signatures of the diffusers that pods run.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.picture import Scheduler, SettingValue
from pipeline.promptset.names.sampler_names import (
    ABSENT_SCHEDULES,
    LINSPACE,
    NAMES,
    SCHEDULES,
    Sampler,
    sampler_of,
    schedule_of,
)
from pipeline.promptset.names.unknown_samplers import unknown_sampler, unknown_schedule

FLAG = (True, False)
SHARE = range(2)  # any number from 0 to 1
MAX_NUMBER = 1e6

# What a walk takes beside the class: how much noise each step adds anew. An engine's setting, not one of the class.
ETA = "eta"

# Whose steps a cascade of smaller pictures can share, as distri.model.sampling.schedulers has them; a test holds them
# equal.
CASCADING = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")

# What a setting may be: one of these values, or any value of this type, or a share.
Wanted = tuple[SettingValue, ...] | type | range

# Settings of which one at most holds, and how the name ends that says it.
_EXCLUSIVE = {"use_karras_sigmas": "Karras", "use_exponential_sigmas": "Exponential", "use_lu_lambdas": "Lu"}

_SPACING: dict[str, Wanted] = {"timestep_spacing": ("leading", "linspace", "trailing"), "steps_offset": (0, 1)}
_SIGMAS: dict[str, Wanted] = {"use_karras_sigmas": FLAG, "use_exponential_sigmas": FLAG}
_DPM: dict[str, Wanted] = {
    **_SIGMAS,
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    "solver_order": (1, 2, 3),
    "solver_type": ("midpoint", "heun"),
    "lower_order_final": FLAG,
    "final_sigmas_type": ("zero", "sigma_min"),
}
_CLIP: dict[str, Wanted] = {"clip_sample": FLAG, "clip_sample_range": float}

# By diffusers class: what a row may set.
READS: Mapping[str, Mapping[str, Wanted]] = MappingProxyType(
    {
        "EulerDiscreteScheduler": {
            **_SPACING,
            **_SIGMAS,
            "interpolation_type": ("linear", "log_linear"),
            "sigma_min": float,
            "sigma_max": float,
            "final_sigmas_type": ("zero", "sigma_min"),
        },
        "EulerAncestralDiscreteScheduler": _SPACING,
        "DDIMScheduler": {**_SPACING, **_CLIP, "set_alpha_to_one": FLAG, ETA: SHARE},
        "DDPMScheduler": {**_SPACING, **_CLIP, "variance_type": ("fixed_small", "fixed_large")},
        "PNDMScheduler": {**_SPACING, "skip_prk_steps": FLAG, "set_alpha_to_one": FLAG},
        "HeunDiscreteScheduler": {**_SPACING, **_SIGMAS, **_CLIP},
        "KDPM2DiscreteScheduler": {**_SPACING, **_SIGMAS},
        "KDPM2AncestralDiscreteScheduler": {**_SPACING, **_SIGMAS},
        "DPMSolverMultistepScheduler": {**_SPACING, **_DPM, "euler_at_final": FLAG, "use_lu_lambdas": FLAG},
        "DPMSolverSinglestepScheduler": _DPM,
        "DEISMultistepScheduler": {
            **_SPACING,
            **_SIGMAS,
            "solver_order": (1, 2, 3),
            "lower_order_final": FLAG,
        },
        "UniPCMultistepScheduler": {
            **_SPACING,
            **_SIGMAS,
            "solver_order": (1, 2, 3),
            "solver_type": ("bh1", "bh2"),
            "predict_x0": FLAG,
            "lower_order_final": FLAG,
            "final_sigmas_type": ("zero", "sigma_min"),
            "sigma_min": float,
            "sigma_max": float,
        },
        "LCMScheduler": {
            **_SPACING,
            **_CLIP,
            "original_inference_steps": int,
            "set_alpha_to_one": FLAG,
            "timestep_scaling": float,
        },
        "TCDScheduler": {
            **_SPACING,
            **_CLIP,
            "original_inference_steps": int,
            "set_alpha_to_one": FLAG,
            "timestep_scaling": float,
            ETA: SHARE,
        },
        "SASolverScheduler": {
            **_SPACING,
            **_SIGMAS,
            "predictor_order": (1, 2, 3),
            "corrector_order": (0, 1, 2, 3),
            "algorithm_type": ("data_prediction", "noise_prediction"),
            "lower_order_final": FLAG,
        },
    }
)

# Which classes take timesteps or sigmas from outside.
TAKES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "timesteps": frozenset(
            {
                "EulerDiscreteScheduler",
                "HeunDiscreteScheduler",
                "DDPMScheduler",
                "DPMSolverMultistepScheduler",
                "DPMSolverSinglestepScheduler",
                "LCMScheduler",
                "TCDScheduler",
            }
        ),
        "sigmas": frozenset({"EulerDiscreteScheduler"}),
    }
)

# Settings that no row may change, and why.
WITHHELD: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        (
            "num_train_timesteps",
            "beta_start",
            "beta_end",
            "beta_schedule",
            "trained_betas",
            "prediction_type",
            "rescale_betas_zero_snr",
            "timestep_type",
        ),
        "it follows from how the model was trained",
    )
    | dict.fromkeys(
        (
            "use_flow_sigmas",
            "flow_shift",
            "use_dynamic_shifting",
            "time_shift_type",
            "shift_terminal",
        ),
        "it is for flow models, and SDXL is none",
    )
    | dict.fromkeys(
        ("thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
        "it is for models that work on pixels, and SDXL works on latents",
    )
    | {"use_beta_sigmas": "it needs scipy, which the pods lack"}
    | dict.fromkeys(
        ("disable_corrector", "solver_p", "lambda_min_clipped"), "it is for experiments with the solver itself"
    )
)

# Clipping is for models that work on pixels; these classes clip unless told otherwise.
_UNLESS_SAID: Mapping[str, Mapping[str, SettingValue]] = {
    "DDIMScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
}

# A model distilled for LCM or TCD has its guidance inside. Its schedule is a pick from this many steps.
DISTILLED = frozenset({"LCMScheduler", "TCDScheduler"})
LCM_MAX_GUIDANCE, LCM_STEPS, LCM_GUIDANCE, LCM_ORIGINAL_STEPS = 2.0, 8, 1.0, 50


def known_names() -> list[str]:
    """The names that users know, Karras forms among them, as documentation shows them."""
    karras = {name: "use_karras_sigmas" in READS[kind] for name, (kind, _) in NAMES.items()}
    return [shown for name, has in karras.items() for shown in (name, *([f"{name} Karras"] if has else ()))]


def scheduler_of(name: str, settings: Mapping[str, Any] | None = None, schedule: str | None = None) -> Scheduler:
    """The scheduler that a user means.

    Args:
        name: as users know it ("DPM++ 2M Karras"), in any case, with blanks, '-' or '_'; or a diffusers class name.
        settings: what differs from the class's own, over what the name means.
        schedule: how its steps are spaced, where the name does not say it ("karras", "SGM Uniform").

    Raises ValueError with what is wrong: no such name, a setting that the class does not read, a value it cannot be.
    """
    kind, meant = _meant(name, schedule)
    given = dict(settings or {})
    for setting, value in given.items():
        _check(kind, setting, value)
    values = dict(_UNLESS_SAID.get(kind, {})) | dict(meant) | given
    spaced = [setting for setting in _EXCLUSIVE if values.get(setting)]
    if len(spaced) > 1:
        raise ValueError(f"{' and '.join(spaced)} exclude each other")
    return Scheduler(name=kind, settings=values)


def shown_name(scheduler: Scheduler) -> str:
    """The name that users know, as "DPM++ 2M Karras"; the class where there is none."""
    plain, suffix = scheduler.name, ""
    most = -1
    for name, (kind, settings) in NAMES.items():
        alike = {key: value for key, value in settings.items() if key != ETA}.items() <= scheduler.settings.items()
        if kind == scheduler.name and alike and len(settings) > most:
            plain, most = name, len(settings)
    if most >= 0:
        suffix = next((end for setting, end in _EXCLUSIVE.items() if scheduler.settings.get(setting)), "")
    return f"{plain} {suffix}".rstrip()


def refusal(scheduler: Scheduler, *, steps: int, guidance_scale: float) -> tuple[str, str] | None:
    """The field that does not go with the scheduler, and why; None if all is well."""
    if scheduler.name not in DISTILLED:
        return None
    shown = shown_name(scheduler)
    most = scheduler.settings.get("original_inference_steps", LCM_ORIGINAL_STEPS)
    if steps > int(most):
        return "steps", f"{steps} found; {shown} picks from {most}, so at most these (its original_inference_steps)"
    if guidance_scale > LCM_MAX_GUIDANCE:
        wanted = f"at most {LCM_MAX_GUIDANCE:g} wanted, or 1 for off"
        return "guidance_scale", f"{guidance_scale:g} found; models for {shown} have guidance inside: {wanted}"
    return None


def schedule_refusal(scheduler: Scheduler | None, name: str) -> str | None:
    """Why `timesteps` or `sigmas` (the name) cannot be given for this scheduler; None if they can."""
    taken = TAKES[name]
    plain = [known for known, (kind, settings) in NAMES.items() if kind in taken]
    if scheduler is None:
        return f"given without a scheduler; one that takes them wanted: {', '.join(plain)}"
    if scheduler.name not in taken:
        return f"{shown_name(scheduler)} takes none; {', '.join(plain)} do"
    if spaced := next((setting for setting in _EXCLUSIVE if scheduler.settings.get(setting)), None):
        return f"given beside {spaced}, which says them, too; one wanted"
    return None


@functools.lru_cache(maxsize=1024)
def _meant(name: str, schedule: str | None) -> tuple[str, Mapping[str, SettingValue]]:
    if schedule is not None and schedule_of(schedule) is None:
        raise ValueError(unknown_schedule(schedule))
    sampler = sampler_of(name, schedule)
    if sampler is None:
        given = name.strip().lower()
        kind = next((kind for kind in READS if given in (kind.lower(), kind.removesuffix("Scheduler").lower())), None)
        if kind is None:
            raise ValueError(unknown_sampler(name, READS))
        plain = next(known for known, (of, _) in NAMES.items() if of == kind)
        spaced = sampler_of(plain, schedule) or Sampler(plain, None, kind, {})
        own = {key: value for key, value in spaced.settings.items() if key not in NAMES[plain][1]}
        sampler = Sampler(plain, spaced.schedule, kind, own)
    if near := ABSENT_SCHEDULES.get(sampler.schedule or ""):
        read = SCHEDULES[near].keys() <= READS[sampler.kind].keys()
        nearest = f"{sampler.name} {near}" if read else sampler.name
        raise ValueError(f"there is no schedule {sampler.schedule} here; the nearest is {nearest}")
    spacing = SCHEDULES.get(sampler.schedule or "", {})
    if unread := [setting for setting in spacing if setting not in READS[sampler.kind]]:
        if spacing == LINSPACE:  # the only one that such a class has
            return sampler.kind, {key: value for key, value in sampler.settings.items() if key not in spacing}
        raise ValueError(
            f"{sampler.name} has no {sampler.schedule} form: {sampler.kind} does not read {unread[0]}; "
            f"the nearest is {sampler.name}"
        )
    return sampler.kind, sampler.settings


def _check(kind: str, setting: str, value: object) -> None:
    reads = READS[kind]
    wanted = reads.get(setting)
    if wanted is None:
        if setting in WITHHELD:
            raise ValueError(f"setting {setting} cannot be changed: {WITHHELD[setting]}")
        near = difflib.get_close_matches(setting, reads, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{kind} does not read {setting[:60]!r}{hint}; it reads {', '.join(sorted(reads))}")
    if isinstance(wanted, tuple):
        # 1 == True in Python, and a flag is no number
        if not any(value == one and type(value) is type(one) for one in wanted):
            choices = ", ".join(str(one).lower() if isinstance(one, bool) else str(one) for one in wanted)
            raise ValueError(f"setting {setting}: {str(value)[:60]!r} found; {choices} wanted")
    elif isinstance(wanted, range):
        if type(value) not in (int, float) or not 0 <= value <= 1:  # type: ignore[operator]  # a number by then
            raise ValueError(f"setting {setting}: {str(value)[:60]!r} found; a number from 0 to 1 wanted")
    elif not (type(value) in (int, wanted) and 0 < value < MAX_NUMBER):  # type: ignore[operator]  # a number by then
        kinds = {float: "a number above 0", int: "a whole number above 0"}
        raise ValueError(f"setting {setting}: {str(value)[:60]!r} found; {kinds[wanted]} wanted")
