"""Other names for fields, and the envelope of the OpenAI Batch API."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.deployment.announcement import Deployment
from pipeline.errors import RequestError
from pipeline.operations.submit import checked_options
from pipeline.promptset.fields.row import Options, ResolvedRow, Row
from pipeline.promptset.formats.source import open_source
from pipeline.promptset.names.aliases import ALIASES
from pipeline.promptset.names.samplers import shown_name
from pipeline.promptset.validate import Validation, resolved_rows
from tests.factories import deployment

# A value for each field that has another name.
VALUES = {
    "control": [{"model": "edges", "image": "house.png"}],
    "reference": [{"adapter": "face", "image": "anna.png"}],
    "custom_id": "a",
    "mask": "mask.png",
    "mask_feather": 4,
    "mask_rounds": 4,
    "only_masked": True,
    "mask_padding": 16,
    "steps": 7,
    "guidance_scale": 3.5,
    "guidance_rescale": 0.5,
    "syntax": "a1111",
    "clip_skip": 1,
    "scheduler": "DPM++ 2M",
    "image": "room.png",
    "num_images": 3,
    "aspect": "16:9",
    "loras": ["film"],
    "model": "demo",
    "format": "webp",
    "quality": 80,
}


def _row(item: dict[str, Any], deployed: Deployment | None = None) -> tuple[list[ResolvedRow], list[str]]:
    found = Validation("p")
    rows = list(resolved_rows(open_source([item]), Options(), deployed or deployment(), found, batch_seed=1))
    return rows, [str(error) for error in found.errors]


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_another_name_means_the_same_field(alias: str, name: str) -> None:
    assert Row.model_validate({"prompt": "p", alias: VALUES[name]}) == Row.model_validate(
        {"prompt": "p", name: VALUES[name]}
    )


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_a_field_under_two_names_is_refused_even_if_both_agree(alias: str, name: str) -> None:
    _, errors = _row({"prompt": "p", name: VALUES[name], alias: VALUES[name]})
    assert f"line 1: {name}: given twice, as {name} and as {alias}; one wanted" in errors


def test_two_other_names_of_one_field_are_two_names_too() -> None:
    assert "given twice, as cfg and as cfg_scale" in _row({"prompt": "p", "cfg": 1.0, "cfg_scale": 1.0})[1][0]


def test_everything_wrong_with_a_row_comes_at_once_also_beside_a_double_name() -> None:
    _, errors = _row({"n": 2, "num_images": 2, "width": 3, "promt": "p"})
    assert [error.split(":")[1].strip() for error in errors] == ["num_images", "width", "prompt", "promt"]


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("hieght", "did you mean height?"),
        ("num_inference_step", "did you mean num_inference_steps?"),
        ("Width", "did you mean width?"),
        ("caption", "did you mean prompt?"),
        ("image_size", "did you mean size?"),
        ("batchCount", "did you mean num_images?"),
        ("zzz", "the nearest are size, target_size, masked_size (docs/prompt-sets.md has all)"),
    ],
)
def test_an_unknown_field_is_an_error_that_names_the_one_meant(field: str, words: str) -> None:
    assert words in _row({"prompt": "p", field: 1})[1][0]


def test_options_for_all_rows_are_spelled_alike() -> None:
    assert checked_options({"num_inference_steps": 7, "sampler": "ddim"}) == checked_options(
        {"steps": 7, "scheduler": "DDIM"}
    )
    with pytest.raises(RequestError, match=r"steps: given twice.*stepz: unknown field; did you mean steps"):
        checked_options({"num_inference_steps": 7, "steps": 7, "stepz": 1})
    with pytest.raises(RequestError, match="prompt: unknown field"):
        checked_options({"prompt": "the same for all"})


def test_the_envelope_of_the_openai_batch_api_is_a_row() -> None:
    body = {"model": "demo", "prompt": "a fox", "n": 2, "size": "256x320", "output_format": "webp"}
    envelope = {"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": body}
    [row], errors = _row(envelope)
    assert not errors
    assert (row.custom_id, row.prompt, row.num_images, row.width, row.height) == ("a", "a fox", 2, 256, 320)
    assert row.file.format == "webp"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"custom_id": "a", "body": {"prompt": "SECRET", "custom_id": "a"}}, "custom_id: given twice, beside `body`"),
        ({"custom_id": "a", "body": {"prompt": "SECRET"}, "steps": 3}, "steps: beside `body` only custom_id, method"),
        ({"custom_id": "a", "body": "SECRET"}, "body: str found; an object"),
        ({"custom_id": "a", "body": None}, "body: NoneType found; an object"),
        ({"custom_id": "a", "body": {"custom": 1}}, "prompt: missing"),
        ({"custom_id": 7, "body": {"prompt": "SECRET"}}, "custom_id: Input should be a valid string"),
    ],
)
def test_an_envelope_that_is_none_is_refused(item: dict[str, Any], words: str) -> None:
    rows, errors = _row(item)
    assert not rows
    assert words in errors[0]
    assert "SECRET" not in "".join(errors)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"sampler_name": "dpmpp_2m_sde_gpu", "scheduler": "karras"}, "DPM++ 2M SDE Karras"),  # ComfyUI
        ({"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}, "DPM++ 2M Karras"),  # the web UIs' API
        ({"sampler": "DPM++ 2M", "schedule_type": "Exponential"}, "DPM++ 2M Exponential"),
        ({"scheduler": "DPM++ 2M", "schedule_type": "Karras"}, "DPM++ 2M Karras"),
        ({"sampler": "k_dpmpp_2m", "noise_schedule": "karras"}, "DPM++ 2M Karras"),
        ({"sampler_name": "DDIM", "scheduler": "DDIM"}, "DDIM"),
        ({"sampler_name": "Euler a", "sampler_index": None, "scheduler": None, "schedule_type": None}, "Euler a"),
    ],
)
def test_a_sampler_and_its_schedule_may_be_two_fields(fields: dict[str, Any], found: str) -> None:
    [row], errors = _row({"prompt": "p", **fields})
    assert not errors
    assert row.scheduler is not None
    assert shown_name(row.scheduler) == found


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sampler_name": "DDIM", "scheduler": "Euler"}, "scheduler: given twice, as sampler_name and as scheduler"),
        ({"schedule_type": "karras"}, "schedule_type: unknown field; a sampler wanted beside it, as sampler_name"),
        ({"scheduler": "karras"}, "scheduler: 'karras' is a schedule; a sampler wanted with it, as Euler Karras"),
        ({"sampler": "Euler", "schedule_type": 7}, "scheduler: 7 found as the schedule; a name as Karras wanted"),
    ],
)
def test_a_sampler_and_a_schedule_that_do_not_go_together_are_refused(fields: dict[str, Any], words: str) -> None:
    assert words in _row({"prompt": "p", **fields})[1][0]
