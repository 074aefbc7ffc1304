"""Schedulers by the names that users know: which diffusers class each means, and which settings that class reads.

A plain table, because the client that refuses a wrong row has neither torch nor diffusers. A test compares it with the
signatures of the diffusers that pods run.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.picture import Scheduler, SettingValue

FLAG = (True, False)
MAX_NUMBER = 1e6

# What a setting may be: one of these values, or any value of this type.
Wanted = tuple[SettingValue, ...] | type

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
        "DDIMScheduler": {**_SPACING, **_CLIP, "set_alpha_to_one": FLAG},
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

_ABSENT = {
    "LMS": "it needs scipy, which the pods lack",
    "LMSDiscreteScheduler": "it needs scipy, which the pods lack",
    "DPMSolverSDEScheduler": 'it needs torchsde, which the pods lack; "DPM++ SDE" is the same kind of solver',
}

# Clipping is for models that work on pixels; these classes clip unless told otherwise.
_UNLESS_SAID: Mapping[str, Mapping[str, SettingValue]] = {
    "DDIMScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
}

_SDE = {"algorithm_type": "sde-dpmsolver++"}
_NAMES: Mapping[str, tuple[str, Mapping[str, SettingValue]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", _SDE | {"solver_order": 2}),
    "DPM++ 3M SDE": ("DPMSolverMultistepScheduler", _SDE | {"solver_order": 3}),
    "DPM++ SDE": ("DPMSolverSinglestepScheduler", _SDE | {"solver_order": 2}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
}
_OTHER_NAMES = {"euler ancestral": "Euler a", "dpm2 ancestral": "DPM2 a", "uni pc": "UniPC"}
_SUFFIXES = {" karras": "use_karras_sigmas", " exponential": "use_exponential_sigmas"}

# A model distilled for LCM has its guidance inside. Its schedule is a pick from this many steps.
LCM = "LCMScheduler"
LCM_MAX_GUIDANCE, LCM_STEPS, LCM_GUIDANCE, LCM_ORIGINAL_STEPS = 2.0, 8, 1.0, 50


def known_names() -> list[str]:
    """The names that users know, Karras forms among them, as documentation shows them."""
    names = []
    for name, (kind, _) in _NAMES.items():
        names.append(name)
        if "use_karras_sigmas" in READS[kind]:
            names.append(f"{name} Karras")
    return names


def scheduler_of(name: str, settings: Mapping[str, Any] | None = None) -> Scheduler:
    """The scheduler that a user means.

    Args:
        name: as users know it ("DPM++ 2M Karras"), in any case, with blanks, '-' or '_'; or a diffusers class name.
        settings: what differs from the class's own, over what the name means.

    Raises ValueError with what is wrong: no such name, a setting that the class does not read, a value it cannot be.
    """
    kind, meant = _meant(name)
    given = dict(settings or {})
    for setting, value in given.items():
        _check(kind, setting, value)
    values = dict(_UNLESS_SAID.get(kind, {})) | dict(meant) | given
    spaced = [setting for setting in _SUFFIXES.values() if values.get(setting)]
    if len(spaced) > 1:
        raise ValueError(f"{' and '.join(spaced)} exclude each other")
    return Scheduler(name=kind, settings=values)


def shown_name(scheduler: Scheduler) -> str:
    """The name that users know, as "DPM++ 2M Karras"; the class where there is none."""
    plain, suffix = scheduler.name, ""
    most = -1
    for name, (kind, settings) in _NAMES.items():
        if kind == scheduler.name and settings.items() <= scheduler.settings.items() and len(settings) > most:
            plain, most = name, len(settings)
    if most >= 0:
        suffix = next((end for end, setting in _SUFFIXES.items() if scheduler.settings.get(setting)), "")
    return plain + suffix.title()


def refusal(scheduler: Scheduler, *, steps: int, guidance_scale: float) -> tuple[str, str] | None:
    """The field that does not go with the scheduler, and why; None if all is well."""
    if scheduler.name != LCM:
        return None
    most = scheduler.settings.get("original_inference_steps", LCM_ORIGINAL_STEPS)
    if steps > int(most):
        return "steps", f"{steps} found; LCM picks from {most}, so at most these (its original_inference_steps)"
    if guidance_scale > LCM_MAX_GUIDANCE:
        wanted = f"at most {LCM_MAX_GUIDANCE:g} wanted, or 1 for off"
        return "guidance_scale", f"{guidance_scale:g} found; models for LCM have guidance inside: {wanted}"
    return None


@functools.lru_cache(maxsize=256)
def _meant(name: str) -> tuple[str, Mapping[str, SettingValue]]:
    for kind in READS:
        if name.strip().lower() in (kind.lower(), kind.removesuffix("Scheduler").lower()):
            return kind, {}
    folded = _folded(name)
    suffix = next((suffix for suffix in _SUFFIXES if folded.endswith(suffix)), "")
    plain = folded.removesuffix(suffix)
    plain = _folded(_OTHER_NAMES.get(plain, plain))
    for known, (kind, settings) in _NAMES.items():
        if _folded(known) != plain:
            continue
        if suffix and _SUFFIXES[suffix] not in READS[kind]:
            raise ValueError(f"{known} has no{suffix.title()} form: {kind} does not read {_SUFFIXES[suffix]}")
        return kind, dict(settings) | ({_SUFFIXES[suffix]: True} if suffix else {})
    for kind, why in _ABSENT.items():
        if plain == _folded(kind):
            raise ValueError(f"{kind} cannot be used: {why}")
    names = known_names()
    near = difflib.get_close_matches(folded, [known.lower() for known in names], n=1)
    meant = next((known for known in names if near and known.lower() == near[0]), None)
    hint = f"did you mean {meant}? " if meant else ""
    raise ValueError(f"{name[:60]!r} is no scheduler; {hint}known are {', '.join(names)}, and their diffusers classes")


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
    elif not (type(value) in (int, wanted) and 0 < value < MAX_NUMBER):  # type: ignore[operator]  # a number by then
        kinds = {float: "a number above 0", int: "a whole number above 0"}
        raise ValueError(f"setting {setting}: {str(value)[:60]!r} found; {kinds[wanted]} wanted")


def _folded(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").replace("dpmpp", "dpm++").split())
