"""Samplers by the names that users know: of the Stable Diffusion web UIs, ComfyUI, InvokeAI, Replicate and diffusers.

A sampler's name may say its schedule, too ("DPM++ 2M Karras"), or the schedule comes beside it (ComfyUI's `scheduler`,
the web UIs' schedule type). Names are compared without regard to case, blanks, '-' and '_'. What diffusers cannot do
for SDXL is in a table as well, with the name that comes nearest.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pipeline.picture import SettingValue

Settings = Mapping[str, SettingValue]

_SDE: Settings = {"algorithm_type": "sde-dpmsolver++"}
# Our name: diffusers class and settings.
NAMES: Mapping[str, tuple[str, Settings]] = MappingProxyType(
    {
        "Euler": ("EulerDiscreteScheduler", {}),
        "Euler a": ("EulerAncestralDiscreteScheduler", {}),
        "DDIM": ("DDIMScheduler", {}),
        "DDPM": ("DDPMScheduler", {}),
        "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
        "Heun": ("HeunDiscreteScheduler", {}),
        "DPM2": ("KDPM2DiscreteScheduler", {}),
        "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
        "DPM++ 2S": ("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
        "DPM++ SDE": ("DPMSolverSinglestepScheduler", {**_SDE, "solver_order": 2}),
        "DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
        "DPM++ 3M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 3}),
        "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {**_SDE, "solver_order": 2}),
        "DPM++ 2M SDE Heun": ("DPMSolverMultistepScheduler", {**_SDE, "solver_order": 2, "solver_type": "heun"}),
        "DPM++ 3M SDE": ("DPMSolverMultistepScheduler", {**_SDE, "solver_order": 3}),
        "DEIS": ("DEISMultistepScheduler", {}),
        "UniPC": ("UniPCMultistepScheduler", {}),
        "SA-Solver": ("SASolverScheduler", {}),
        "LCM": ("LCMScheduler", {}),
        "TCD": ("TCDScheduler", {"eta": 0.3}),
    }
)
# Other names, without a schedule: ours.
_OTHER_NAMES: Mapping[str, str] = {
    "euler ancestral": "Euler a",
    "euler ancestral discrete": "Euler a",
    "pndm": "PLMS",
    "heun discrete": "Heun",
    "dpm 2": "DPM2",
    "kdpm 2": "DPM2",
    "dpm 2 ancestral": "DPM2 a",
    "dpm2 ancestral": "DPM2 a",
    "dpm 2 a": "DPM2 a",
    "kdpm 2 a": "DPM2 a",
    "dpm++ 2": "DPM++ 2M",
    "dpm++": "DPM++ 2M",
    "dpmsolver": "DPM++ 2M",
    "dpmsolver++": "DPM++ 2M",
    "dpm solver": "DPM++ 2M",
    "dpm solver++": "DPM++ 2M",
    "dpm": "DPM++ 2M",
    "dpmsingle": "DPM++ 2S",
    "dpm++ 2m sde heun": "DPM++ 2M SDE Heun",
    "uni pc bh2": "UniPC",
    "unipcm": "UniPC",
}
# What there is no diffusers scheduler for, or none that fits SDXL in the pods: why, and what comes nearest.
_OWN_TO_OTHERS = "diffusers has no such solver"
_SCIPY, _GUIDANCE = "it needs scipy, which the pods lack", "its guidance (CFG++) is part of the solver"
ABSENT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "LMS": (_SCIPY, "DPM++ 2M"),
        "KLMS": (_SCIPY, "DPM++ 2M"),
        "LMSDiscreteScheduler": (_SCIPY, "DPM++ 2M"),
        "LMSDiscrete": (_SCIPY, "DPM++ 2M"),
        "DPMSolverSDEScheduler": ("it needs torchsde, which the pods lack", "DPM++ SDE"),
        "DPM++ 2S a": (_OWN_TO_OTHERS, "DPM++ SDE"),
        "DPM fast": (_OWN_TO_OTHERS, "DPM++ 2S"),
        "DPM adaptive": ("how many steps it takes is not known before", "DPM++ 2M"),
        "Restart": (_OWN_TO_OTHERS, "Heun"),
        "Heun++": (_OWN_TO_OTHERS, "Heun"),
        "Heun++ 2": (_OWN_TO_OTHERS, "Heun"),
        "exp_heun_2_x0": (_OWN_TO_OTHERS, "Heun"),
        "exp_heun_2_x0_sde": (_OWN_TO_OTHERS, "DPM++ SDE"),
        "Euler CFG++": (_GUIDANCE, "Euler"),
        "Euler a CFG++": (_GUIDANCE, "Euler a"),
        "DPM++ 2M CFG++": (_GUIDANCE, "DPM++ 2M"),
        "DPM++ 2S a CFG++": (_GUIDANCE, "DPM++ SDE"),
        "DDIM CFG++": (_GUIDANCE, "DDIM"),
        "DPM++ 2M alt": (_OWN_TO_OTHERS, "DPM++ 2M"),
        "DPM++ 2M Turbo": (_OWN_TO_OTHERS, "DPM++ 2M SGM Uniform"),
        "Euler A Turbo": (_OWN_TO_OTHERS, "Euler a SGM Uniform"),
        "Euler Dy": (_OWN_TO_OTHERS, "Euler"),
        "Euler SMEA Dy": (_OWN_TO_OTHERS, "Euler"),
        "Euler Negative": (_OWN_TO_OTHERS, "Euler"),
        "Kohaku LoNyu Yog": (_OWN_TO_OTHERS, "Euler a"),
        "IPNDM": (_OWN_TO_OTHERS, "PLMS"),
        "IPNDMScheduler": ("it does not fit SDXL", "PLMS"),
        "IPNDM V": (_OWN_TO_OTHERS, "PLMS"),
        "res_multistep": (_OWN_TO_OTHERS, "DPM++ 2M"),
        "res_multistep_cfg_pp": (_GUIDANCE, "DPM++ 2M"),
        "res_multistep_ancestral": (_OWN_TO_OTHERS, "DPM++ 2M SDE"),
        "res_multistep_ancestral_cfg_pp": (_GUIDANCE, "DPM++ 2M SDE"),
        "gradient_estimation": (_OWN_TO_OTHERS, "Euler"),
        "gradient_estimation_cfg_pp": (_GUIDANCE, "Euler"),
        "er_sde": (_OWN_TO_OTHERS, "DPM++ 3M SDE"),
        "seeds_2": (_OWN_TO_OTHERS, "DPM++ SDE"),
        "seeds_3": (_OWN_TO_OTHERS, "DPM++ SDE"),
        "sa_solver_pece": (_OWN_TO_OTHERS, "SA-Solver"),
        "EDMEulerScheduler": ("it is for models of another parametrization", "Euler Karras"),
        "EDMDPMSolverMultistepScheduler": ("it is for models of another parametrization", "DPM++ 2M Karras"),
        "CosineDPMSolverMultistepScheduler": ("it needs torchsde, which the pods lack", "DPM++ 2M SDE"),
        "FlowMatchEulerDiscreteScheduler": ("it is for flow models, and SDXL is none", "Euler"),
        "FlowMatchHeunDiscreteScheduler": ("it is for flow models, and SDXL is none", "Heun"),
        "FlowMatchLCMScheduler": ("it is for flow models, and SDXL is none", "LCM"),
        "DDIMParallelScheduler": ("it is for solving all steps at once", "DDIM"),
        "DDPMParallelScheduler": ("it is for solving all steps at once", "DDPM"),
        "DDIMInverseScheduler": ("it leads from a picture to noise", "DDIM"),
        "DPMSolverMultistepInverseScheduler": ("it leads from a picture to noise", "DPM++ 2M"),
    }
)

LINSPACE: Settings = {"timestep_spacing": "linspace"}
_TRAILING: Settings = {"timestep_spacing": "trailing"}
# Schedules: what each sets. Sources: sd_schedulers.py of the web UIs, ComfyUI's samplers.py. Polyexponential with its
# default rho, 1, is exponential.
SCHEDULES: Mapping[str, Settings] = MappingProxyType(
    {
        "Karras": {"use_karras_sigmas": True},
        "Exponential": {"use_exponential_sigmas": True},
        "Polyexponential": {"use_exponential_sigmas": True},
        "SGM Uniform": _TRAILING,
        "Simple": _TRAILING,
        "Normal": LINSPACE,
        "Uniform": LINSPACE,
        "DDIM": {"timestep_spacing": "leading", "steps_offset": 1},
        "DDIM Uniform": {"timestep_spacing": "leading", "steps_offset": 1},
        "Trailing": _TRAILING,
        "Linspace": LINSPACE,
        "Leading": {"timestep_spacing": "leading"},
        "Lu": {"use_lu_lambdas": True},
    }
)
# What the web UIs' Automatic means for a sampler that they give another schedule than the uniform one.
_AUTOMATIC: Mapping[str, str] = {
    **dict.fromkeys(("DPM2", "DPM2 a", "DPM++ 2M", "DPM++ SDE"), "Karras"),
    **dict.fromkeys(("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"), "Exponential"),
    **dict.fromkeys(("Euler", "Euler a", "Heun"), "Uniform"),
}
AUTOMATIC = frozenset({"automatic", "auto", "native", "default"})
# Schedules that are none of diffusers' own: what comes nearest.
ABSENT_SCHEDULES: Mapping[str, str] = MappingProxyType(
    {
        "Beta": "SGM Uniform",
        "Beta57": "SGM Uniform",
        "KL Optimal": "Karras",
        "Align Your Steps": "Karras",
        "Align Your Steps GITS": "Karras",
        "Align Your Steps 11": "Karras",
        "Align Your Steps 32": "Karras",
        "AYS": "Karras",
        "GITS": "Karras",
        "Linear Quadratic": "Normal",
        "Karras Exponential": "Karras",
        "Cosine": "SGM Uniform",
        "Turbo": "SGM Uniform",
        "Bong Tangent": "SGM Uniform",
    }
)
# Short endings of InvokeAI and of the web UIs' API, and what says where it is computed.
_ENDINGS: Mapping[str, str] = {"k": "karras", "ka": "karras", "exp": "exponential", "gpu": ""}


@dataclass(frozen=True)
class Sampler:
    """What a name means: our name, the schedule that it says if it does, and what both set of which class.

    The schedule may be one of `ABSENT_SCHEDULES`, which sets nothing.
    """

    name: str
    schedule: str | None
    kind: str
    settings: Settings


def key_of(name: str) -> str:
    """A name as names are compared: small letters, digits and plus signs."""
    key = re.sub(r"[\s_\-]+", "", name.lower())
    return key.replace("dpmpp", "dpm++").replace("cfgpp", "cfg++").replace("heunpp", "heun++")


def _keys(names: Mapping[str, object]) -> dict[str, str]:
    return {key_of(name): name for name in names}


_BY_KEY = _keys(NAMES) | {key_of(other): name for other, name in _OTHER_NAMES.items()}
_ABSENT_BY_KEY = _keys(ABSENT)
_SCHEDULE_BY_KEY = _keys(SCHEDULES) | _keys(ABSENT_SCHEDULES) | dict.fromkeys(AUTOMATIC, "Automatic")
# The longest first, so that "DDIM Uniform" is not read as "Uniform".
_SCHEDULE_ENDINGS = sorted((key for key in _SCHEDULE_BY_KEY if len(key) > 3), key=len, reverse=True)


def schedule_of(name: str) -> str | None:
    """The schedule of this name, also one that there is none of here; None if it is the name of none."""
    return _SCHEDULE_BY_KEY.get(key_of(name))


@functools.lru_cache(maxsize=1024)
def sampler_of(name: str, schedule: str | None = None) -> Sampler | None:
    """What a user means by a sampler's name, and by a schedule beside it; None if it is no name that is known.

    Raises ValueError if there is no such sampler here, with the nearest one, or no such schedule.
    """
    found = _plain_and_schedule(name)
    if found is None:
        return None
    plain, own = found
    if plain in ABSENT:
        why, near = ABSENT[plain]
        raise ValueError(f"{plain} cannot be used: {why}; the nearest is {near}")
    beside = None
    if schedule is not None and (beside := schedule_of(schedule)) is None:
        raise ValueError(f"{schedule[:60]!r} is no schedule; known are {', '.join(SCHEDULES)}, Automatic")
    if own is not None and beside not in (None, "Automatic", own):
        raise ValueError(f"two schedules found, {own} and {beside}; one wanted")
    chosen = own or beside
    if chosen == "Automatic":
        chosen = _AUTOMATIC.get(plain)
    kind, settings = NAMES[plain]
    return Sampler(plain, chosen, kind, {**settings, **SCHEDULES.get(chosen or "", {})})


def _plain_and_schedule(name: str) -> tuple[str, str | None] | None:
    """Our name, or one of `ABSENT`, and the schedule at the end."""
    name = "DPM++ 2M Karras" if key_of(name) == "karrasdpm" else name  # Replicate's
    bare = re.sub(r"^(?:k|sample)[\s_]+", "", name.strip().lower())
    words = re.split(r"[\s_]+", bare)
    schedule = None
    while len(words) > 1 and (ending := _ENDINGS.get(words[-1])) is not None:
        schedule = _SCHEDULE_BY_KEY.get(ending, schedule)
        words.pop()
    key = key_of(" ".join(words))
    key = re.sub(r"ancestral(?=$|cfg)", "a", key) if key not in _BY_KEY and key not in _ABSENT_BY_KEY else key
    for ending in ("", *_SCHEDULE_ENDINGS):
        plain = key.removesuffix(ending) if ending else key
        known = _BY_KEY.get(plain) or _ABSENT_BY_KEY.get(plain)
        if known is not None and key.endswith(ending):
            return known, _SCHEDULE_BY_KEY.get(ending, schedule)
    return None
