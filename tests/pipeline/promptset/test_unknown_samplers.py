"""What is said of a sampler or a schedule that nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.promptset.fields.row import Row
from pipeline.promptset.names.samplers import READS
from pipeline.promptset.names.unknown_samplers import unknown_sampler, unknown_schedule
from pipeline.promptset.validate import fields_errors


@pytest.mark.parametrize("name", ["", " ", "\t"])
def test_nothing_is_called_empty(name: str) -> None:
    assert unknown_sampler(name, READS).startswith("is empty; leave it out for the model's own")
    assert unknown_schedule(name).startswith("an empty schedule found; leave it out")


@pytest.mark.parametrize("name", ["none", "None", "NULL", "n/a", "auto", "Default", "automatic"])
def test_a_word_for_nothing_is_to_be_left_out(name: str) -> None:
    assert unknown_sampler(name, READS) == (
        f"{name!r} is no sampler; leave it out for the model's own, or say one, as Euler"
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("flow_match_euler", "Euler"),
        ("FlowMatchEulerDiscrete", "Euler"),
        ("flowmatch_heun", "Heun"),
        ("rectified flow", "Euler"),
        ("rf-ddim", "DDIM"),
        ("flow_dpmpp_2m", "DPM++ 2M"),
    ],
)
def test_one_of_flow_models_says_so(name: str, nearest: str) -> None:
    assert unknown_sampler(name, READS).endswith(f"it is for flow models, and SDXL is none; the nearest is {nearest}")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("eular", "Euler"),
        ("Euler_a!!!", "Euler a"),
        ("dpmpp_2m_sdee", "DPM++ 2M SDE"),
        ("diffusers.EulerDiscreteScheduler", "EulerDiscreteScheduler"),
        ("dpm fast 3", "DPM++ 2S"),  # DPM fast, which there is none of
        ("sa_sol", "SA-Solver"),
    ],
)
def test_one_that_comes_near_is_named(name: str, meant: str) -> None:
    assert f"did you mean {meant}?" in (text := unknown_sampler(name, READS)) or text.endswith(f"nearest is {meant}")


@pytest.mark.parametrize("name", ["xyz", "qwerty zxcv", "asdfgh", "1", "a", "欧拉", "VQDiffusionScheduler", "x" * 500])
def test_nothing_comes_near_what_is_far_from_all(name: str) -> None:
    assert "did you mean" not in (text := unknown_sampler(name, READS))
    assert "known are Euler, Euler a" in text
    assert len(text) < 400
    assert "did you mean" not in unknown_schedule(name)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ("karas", "did you mean Karras?"),
        ("sgm", "did you mean SGM Uniform?"),
        ("", "an empty schedule found"),
        (7, "7 found as the schedule"),
        ("kl_optimum", "did you mean Karras?"),  # the nearest of KL Optimal, which there is none of
        ("euler_ancestral", "given twice"),
        ("lms", "given twice"),
    ],
)
def test_what_stands_beside_a_samplers_name_is_its_schedule_unless_it_is_a_sampler(beside: Any, message: str) -> None:
    [error] = fields_errors(1, {"prompt": "p", "sampler_name": "euler", "scheduler": beside}, Row)
    assert message in error.message
