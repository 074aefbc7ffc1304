"""Names of samplers of other tools: each is understood, or refused with the nearest one that is."""

from __future__ import annotations

import pytest

from pipeline.promptset.names.sampler_names import ABSENT, ABSENT_SCHEDULES, NAMES, SCHEDULES, sampler_of
from pipeline.promptset.names.samplers import scheduler_of, shown_name
from tests.pipeline.promptset import names_of_tools

ALL = sorted({name for names in names_of_tools.TOOLS.values() for name in names})


def _understood(name: str, schedule: str | None = None) -> bool:
    try:
        scheduler_of(name, None, schedule)
    except ValueError as error:
        scheduler_of(str(error).rpartition("; the nearest is ")[2])  # one that is understood
        return False
    return True


def test_of_more_than_130_names_each_is_understood_or_refused_with_the_nearest() -> None:
    assert len(ALL) >= 130
    understood = [name for name in ALL if _understood(name)]
    assert len(understood) >= 90, sorted(set(ALL) - set(understood))


@pytest.mark.parametrize("schedule", sorted(set(names_of_tools.SCHEDULES)))
def test_every_schedule_goes_with_every_sampler_or_the_nearest_is_named(schedule: str) -> None:
    understood = [name for name in NAMES if _understood(name, schedule)]
    assert understood or schedule.lower().replace(" ", "_") in {
        name.lower().replace(" ", "_") for name in ABSENT_SCHEDULES
    }


@pytest.mark.parametrize("name", ALL)
def test_case_blanks_and_underscores_do_not_matter(name: str) -> None:
    spellings = (name.upper(), name.lower(), name.replace("_", " "), f"  {name} ", name.replace(" ", "_"))
    assert {_understood(one) for one in spellings} == {_understood(name)}
    if _understood(name):
        assert {scheduler_of(one).model_dump_json() for one in spellings} == {scheduler_of(name).model_dump_json()}


@pytest.mark.parametrize(
    ("name", "schedule", "shown"),
    [
        ("dpmpp_2m_sde_gpu", "karras", "DPM++ 2M SDE Karras"),
        ("euler_ancestral", "normal", "Euler a"),
        ("dpmpp_2m", "Automatic", "DPM++ 2M Karras"),
        ("DPM++ 3M SDE", "Automatic", "DPM++ 3M SDE Exponential"),
        ("DPM++ SDE", "normal", "DPM++ SDE"),
        ("EulerDiscreteScheduler", "karras", "Euler Karras"),
        ("DPMSolverMultistepScheduler", "exponential", "DPM++ 2M Exponential"),
        ("DPM++ 2M Karras", "karras", "DPM++ 2M Karras"),
        ("DPM++ 2M Karras", "automatic", "DPM++ 2M Karras"),
        ("KarrasDPM", None, "DPM++ 2M Karras"),
        ("dpmpp_2m_sde_heun_gpu", "exponential", "DPM++ 2M SDE Heun Exponential"),
    ],
)
def test_a_schedule_may_stand_beside_the_sampler(name: str, schedule: str | None, shown: str) -> None:
    found = scheduler_of(name, None, schedule)
    if name == "DPMSolverMultistepScheduler":  # a class has its own settings beside
        assert found.settings == {"use_exponential_sigmas": True}
    else:
        assert shown_name(found) == shown


@pytest.mark.parametrize(
    ("schedule", "spacing"), [("sgm_uniform", "trailing"), ("Simple", "trailing"), ("Normal", "linspace")]
)
def test_a_spacing_is_a_schedule_too(schedule: str, spacing: str) -> None:
    assert scheduler_of("Euler", None, schedule).settings == {"timestep_spacing": spacing}


@pytest.mark.parametrize(
    ("name", "schedule", "words"),
    [
        ("DPM++ 2M Karras", "exponential", "two schedules found, Karras and Exponential"),
        ("Euler", "curry", "'curry' is no schedule; known are Karras"),
        ("LMS", "karras", r"scipy.*the nearest is DPM\+\+ 2M"),
        ("DPM++ SDE", "sgm_uniform", r"has no SGM Uniform form.*the nearest is DPM\+\+ SDE"),
        ("Euler", "Align Your Steps", "no schedule Align Your Steps here; the nearest is Euler Karras"),
    ],
)
def test_what_does_not_go_together_is_refused(name: str, schedule: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scheduler_of(name, None, schedule)


def test_what_is_named_as_nearest_is_there() -> None:
    for _, near in ABSENT.values():
        assert sampler_of(near) is not None
    assert set(ABSENT_SCHEDULES.values()) <= set(SCHEDULES)
