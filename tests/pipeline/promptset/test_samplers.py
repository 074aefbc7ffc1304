"""Schedulers by users' names, and our table beside the diffusers that pods run."""

from __future__ import annotations

import inspect
import re
from typing import Any

import diffusers
import pytest
import torch

from pipeline.picture import Scheduler
from pipeline.promptset.names.samplers import (
    ETA,
    READS,
    TAKES,
    WITHHELD,
    known_names,
    refusal,
    schedule_refusal,
    scheduler_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # of diffusers with NumPy 2

# What SDXL's own scheduler is configured with.
SDXL: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("Euler", "EulerDiscreteScheduler", {}),
        ("euler A", "EulerAncestralDiscreteScheduler", {}),
        ("euler_ancestral", "EulerAncestralDiscreteScheduler", {}),
        ("EulerAncestralDiscreteScheduler", "EulerAncestralDiscreteScheduler", {}),
        ("DDIM", "DDIMScheduler", {"clip_sample": False}),
        ("ddimscheduler", "DDIMScheduler", {"clip_sample": False}),
        (
            "dpm++ 2m karras",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
        ),
        (
            "dpmpp_2m_sde",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
        ),
        (
            "DPM++ SDE Karras",
            "DPMSolverSinglestepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
        ),
        ("Euler Karras", "EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("Euler exponential", "EulerDiscreteScheduler", {"use_exponential_sigmas": True}),
        ("UniPC", "UniPCMultistepScheduler", {}),
        ("uni_pc", "UniPCMultistepScheduler", {}),
        ("Heun", "HeunDiscreteScheduler", {}),
        ("LCM", "LCMScheduler", {}),
        ("PLMS", "PNDMScheduler", {"skip_prk_steps": True}),
    ],
)
def test_a_name_that_users_know_is_a_class_and_its_settings(name: str, kind: str, settings: dict[str, Any]) -> None:
    assert scheduler_of(name) == Scheduler(name=kind, settings=settings)


@pytest.mark.parametrize("name", known_names())
def test_every_name_makes_a_diffusers_scheduler_that_walks_a_latent(name: str) -> None:
    scheduler = scheduler_of(name)
    kind = getattr(diffusers, scheduler.name)
    walk = kind.from_config(SDXL | scheduler.settings)
    own = {key: value for key, value in scheduler.settings.items() if key != ETA}
    assert {key: walk.config[key] for key in own} == own
    walk.set_timesteps(6)
    latent = torch.ones(1, 4, 8, 8)
    takes = inspect.signature(walk.step).parameters
    extra = {"generator": torch.Generator().manual_seed(0)} if "generator" in takes else {}
    for timestep in walk.timesteps:
        noise = walk.scale_model_input(latent, timestep) * 0.1
        latent = walk.step(noise, timestep, latent, **extra).prev_sample
    assert torch.isfinite(latent).all()


@pytest.mark.parametrize("name", READS)
def test_the_table_names_every_setting_of_the_class_once(name: str) -> None:
    """A diffusers with other settings has to be looked at: which may a row set, and which not?"""
    own = set(inspect.signature(getattr(diffusers, name).__init__).parameters) - {"self"}
    assert set(READS[name]) - {ETA} <= own
    assert ETA not in READS[name] or ETA in inspect.signature(getattr(diffusers, name).step).parameters
    assert own - set(READS[name]) <= set(WITHHELD) | _NOT_FOR_ROWS.get(name, set())


# What the table leaves out of one class although another may set it.
_NOT_FOR_ROWS = {
    "DPMSolverMultistepScheduler": {"variance_type"},  # of models that learnt their variance
    "DPMSolverSinglestepScheduler": {"variance_type"},
    "DEISMultistepScheduler": {"algorithm_type", "solver_type"},  # each has one value only
    "SASolverScheduler": {"variance_type", "tau_func"},  # the latter is a function
}


@pytest.mark.parametrize("name", READS)
def test_every_choice_of_the_table_is_one_that_diffusers_takes(name: str) -> None:
    kind = getattr(diffusers, name)
    for setting, wanted in READS[name].items():
        for value in wanted if isinstance(wanted, tuple) else (12,) if setting != ETA else ():
            walk = kind.from_config(SDXL | {setting: value})
            assert walk.config[setting] == value, "diffusers took another value instead"
            walk.set_timesteps(6)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("Eular", {}, "'Eular' is no scheduler; did you mean Euler\\? known are Euler, Euler a"),
        ("", {}, "is empty; leave it out for the model's own"),
        (
            "Euler a Karras",
            {},
            "Euler a has no Karras form: EulerAncestralDiscreteScheduler does not read.*the nearest is Euler a",
        ),
        ("LMS", {}, "LMS cannot be used: it needs scipy"),
        ("DPMSolverSDEScheduler", {}, r"it needs torchsde.*the nearest is DPM\+\+ SDE$"),
        ("FlowMatchEulerDiscreteScheduler", {}, "SDXL is none; the nearest is Euler"),
        ("Euler a", {"use_karras_sigmas": True}, "does not read 'use_karras_sigmas'; it reads steps_offset"),
        ("Euler", {"use_karas_sigmas": True}, "did you mean use_karras_sigmas\\?"),
        ("Euler", {"use_karras_sigmas": 1}, "use_karras_sigmas: '1' found; true, false wanted"),
        ("DPM++ 2M", {"solver_order": True}, "solver_order: 'True' found; 1, 2, 3 wanted"),
        ("DPM++ 2M", {"solver_order": 4}, "solver_order: '4' found; 1, 2, 3 wanted"),
        ("DPM++ 2M", {"algorithm_type": "deis"}, "algorithm_type: 'deis' found; dpmsolver\\+\\+, sde"),
        ("Euler", {"prediction_type": "sample"}, "prediction_type cannot be changed: .* how the model was trained"),
        ("Euler", {"use_beta_sigmas": True}, "scipy"),
        ("DPM++ 2M Karras", {"use_exponential_sigmas": True}, "use_karras_sigmas and use_exponential_sigmas exclude"),
        ("LCM", {"original_inference_steps": 0}, "'0' found; a whole number above 0 wanted"),
        ("LCM", {"original_inference_steps": 5.5}, "'5.5' found; a whole number above 0 wanted"),
        ("Euler", {"sigma_max": float("nan")}, "'nan' found; a number above 0 wanted"),
        ("Euler", {"sigma_max": "1"}, "'1' found; a number above 0 wanted"),
        ("TCD", {"eta": 1.5}, "eta: '1.5' found; a number from 0 to 1 wanted"),
        ("TCD", {"eta": True}, "eta: 'True' found; a number from 0 to 1 wanted"),
        ("Euler", {"eta": 0.5}, "does not read 'eta'"),
        ("karras", {}, "'karras' is a schedule; a sampler wanted with it, as Euler Karras"),
        ("DPM++ 2M Beta", {}, r"no schedule Beta here; the nearest is DPM\+\+ 2M SGM Uniform"),
    ],
)
def test_what_diffusers_would_refuse_or_ignore_is_refused_with_a_reason(
    name: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        scheduler_of(name, settings)


def test_settings_of_a_row_win_over_what_the_name_means() -> None:
    assert scheduler_of("DPM++ 2M", {"solver_order": 3}).settings["solver_order"] == 3
    assert scheduler_of("DDIM", {"clip_sample": True}).settings["clip_sample"] is True
    assert scheduler_of("DPM++ 2M Karras", {"use_karras_sigmas": False}).settings["use_karras_sigmas"] is False


def test_lcm_takes_no_guidance_and_no_more_steps_than_it_picks_from() -> None:
    lcm = scheduler_of("LCM")
    assert refusal(lcm, steps=50, guidance_scale=2) is None
    assert refusal(lcm, steps=51, guidance_scale=1) == (
        "steps",
        "51 found; LCM picks from 50, so at most these (its original_inference_steps)",
    )
    assert (refusal(lcm, steps=8, guidance_scale=5) or ("",))[0] == "guidance_scale"
    assert refusal(scheduler_of("LCM", {"original_inference_steps": 100}), steps=51, guidance_scale=1) is None
    assert refusal(scheduler_of("Euler"), steps=1000, guidance_scale=100) is None
    walk = diffusers.LCMScheduler.from_config(SDXL)
    with pytest.raises(ValueError, match="smaller than `num_inference_steps`"):
        walk.set_timesteps(51)


@pytest.mark.parametrize("name", TAKES)
def test_the_classes_that_take_a_schedule_are_those_of_diffusers(name: str) -> None:
    takes = {kind for kind in READS if name in inspect.signature(getattr(diffusers, kind).set_timesteps).parameters}
    # UniPC takes sigmas of flow models only, says diffusers when it is asked.
    assert takes - {"UniPCMultistepScheduler"} == TAKES[name]


@pytest.mark.parametrize(
    ("name", "of", "words"),
    [
        ("Euler", "timesteps", None),
        ("Euler", "sigmas", None),
        ("DPM++ 2M", "timesteps", None),
        ("DPM++ 2M", "sigmas", r"DPM\+\+ 2M takes none; Euler do"),
        ("Euler a", "timesteps", "Euler a takes none; Euler, DDPM, Heun"),
        ("Euler Karras", "timesteps", "given beside use_karras_sigmas"),
        (None, "timesteps", "without a scheduler; one that takes them wanted: Euler"),
    ],
)
def test_a_schedule_of_ones_own_is_for_those_that_take_it(name: str | None, of: str, words: str | None) -> None:
    refused = schedule_refusal(scheduler_of(name) if name else None, of)
    assert (words is None) is (refused is None)
    assert words is None or re.search(words, refused or "")


def test_tcd_is_used_as_lcm_is() -> None:
    tcd = scheduler_of("TCD", {"eta": 0.5})
    assert tcd == Scheduler(name="TCDScheduler", settings={"eta": 0.5})
    assert scheduler_of("tcd").settings == {"eta": 0.3}
    assert (refusal(tcd, steps=51, guidance_scale=1) or ("",))[0] == "steps"
    assert refusal(tcd, steps=4, guidance_scale=0) is None
