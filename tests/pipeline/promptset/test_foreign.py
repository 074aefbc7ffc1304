"""Fields of other tools' payloads: mapped, passed over, named in a warning, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.promptset.fields.row import Options, ResolvedRow, Row
from pipeline.promptset.formats.foreign import FOREIGN, IGNORED, PASSED_OVER, REFUSED, RENAMED
from pipeline.promptset.formats.source import open_source
from pipeline.promptset.names.aliases import ALIASES
from pipeline.promptset.validate import Validation, resolved_rows
from tests.factories import deployment

# As the web UIs' API documents its defaults.
WEB_UI: dict[str, Any] = {
    "prompt": "a",
    "negative_prompt": "bad",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "sampler_name": "DPM++ 2M",
    "scheduler": "Karras",
    "batch_size": 2,
    "n_iter": 2,
    "steps": 20,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "tiling": False,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "eta": None,
    "denoising_strength": 0,
    "s_min_uncond": 0.0,
    "s_churn": None,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "refiner_checkpoint": None,
    "disable_extra_networks": False,
    "comments": {},
    "enable_hr": False,
    "firstphase_width": 0,
    "hr_scale": 2,
    "hr_upscaler": None,
    "sampler_index": "Euler",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
}
OPENAI: dict[str, Any] = {
    "model": "dall-e-3",
    "prompt": "a",
    "n": 1,
    "size": "1024x1024",
    "quality": "hd",
    "style": "vivid",
    "response_format": "b64_json",
    "user": "u",
    "background": "auto",
    "moderation": "low",
    "output_format": "png",
    "output_compression": 100,
}


def _row(item: dict[str, Any]) -> tuple[list[ResolvedRow], list[str], list[str]]:
    found = Validation("p")
    deployed = deployment(max_megapixels=64.0)
    rows = list(resolved_rows(open_source([item]), Options(), deployed, found, batch_seed=1))
    return rows, [str(error) for error in found.errors], [str(warning) for warning in found.warnings]


def test_no_field_of_ours_is_taken_for_another_tools() -> None:
    assert not FOREIGN & {*Row.model_fields, *ALIASES}
    assert set(RENAMED.values()) <= set(Row.model_fields)
    kinds = [set(RENAMED), set(PASSED_OVER), set(IGNORED), set(REFUSED)]
    assert sum(map(len, kinds)) == len(set().union(*kinds))


def test_a_payload_of_the_web_uis_is_a_row() -> None:
    [row], errors, warnings = _row(WEB_UI)
    assert (errors, warnings) == ([], [])
    assert (row.num_images, row.steps, row.guidance_scale, row.width, row.height) == (4, 20, 7.0, 512, 512)
    assert row.scheduler is not None
    assert row.scheduler.settings["use_karras_sigmas"] is True


def test_hires_fix_is_a_large_picture() -> None:
    [row], errors, warnings = _row(
        {"prompt": "a", "width": 512, "height": 768, "steps": 20, "enable_hr": True, "hr_scale": 2}
        | {"denoising_strength": 0.5, "hr_upscaler": "Latent", "hr_second_pass_steps": 10}
    )
    assert errors == []
    assert (row.width, row.height) == (1024, 1536)
    assert (row.highres.strength, row.highres.steps, row.highres.base_px) == (0.5, 20, 627)
    assert warnings == ["line 1: hr_upscaler: ignored: a second pass enlarges as docs/engine.md says"]


def test_a_request_to_openai_is_a_row_in_a_batch_file_and_alone() -> None:
    envelope = {"custom_id": "f", "method": "POST", "url": "/v1/images/generations", "body": OPENAI}
    for item in (envelope, OPENAI):
        [row], errors, warnings = _row(item)
        assert errors == []
        assert (row.prompt, row.num_images, row.width, row.model) == ("a", 1, 1024, "demo")
        assert [warning.split(":")[1].strip() for warning in warnings] == ["style", "quality", "model"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"positive": "b"}, {"prompt": "b"}),  # ComfyUI
        ({"positive_prompt": "b", "positive_style_prompt": "c"}, {"prompt": "b", "prompt_2": "c"}),  # InvokeAI
        ({"prompt": "b", "noise_seed": 5, "cfg": 4, "denoise": 1.0}, {"seed": 5, "guidance_scale": 4.0}),
        ({"prompt": "b", "num_outputs": 2, "refine": "no_refiner", "high_noise_frac": 0.8}, {"num_images": 2}),
        ({"prompt": "b", "batch_size": 3}, {"num_images": 3}),
        ({"prompt": "b", "size": "auto", "quality": "auto"}, {"width": 256}),
        ({"prompt": "b", "ckpt_name": "demo"}, {"model": "demo"}),
        ({"prompt": "b", "CLIP_stop_at_last_layers": 1}, {"clip_skip": 2}),  # SDXL's own, as A1111 and Forge have it
        ({"prompt": "b", "override_settings": {"CLIP_stop_at_last_layers": 1}}, {"clip_skip": 2}),
        ({"prompt": "b", "CLIP_stop_at_last_layers": 3}, {"clip_skip": 3}),
        # Replicate, Hugging Face, Stable Horde
        ({"version": "x", "input": {"prompt": "b", "num_outputs": 2}}, {"prompt": "b", "num_images": 2}),
        ({"inputs": "b", "parameters": {"num_inference_steps": 9}}, {"prompt": "b", "steps": 9}),
        ({"prompt": "b", "params": {"steps": 9, "cfg_scale": 4}, "nsfw": False}, {"steps": 9, "guidance_scale": 4.0}),
        ({"prompt": "b", "override_settings": {"sd_model_checkpoint": "demo"}}, {"model": "demo"}),
    ],
)
def test_fields_under_other_names_are_ours(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    [row], errors, warnings = _row(fields)
    assert (errors, warnings) == ([], [])
    assert {name: getattr(row, name) for name in expected} == expected


def test_crops_of_diffusers_name_the_top_first() -> None:
    [row], _, _ = _row({"prompt": "b", "crops_coords_top_left": [3, 5]})
    assert row.conditioning.crop == (5, 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"init_images": ["x"]}, "init_images: pictures inside a row are not read"),
        ({"alwayson_scripts": {"controlnet": {}}}, "alwayson_scripts: no extensions run here"),
        ({"tiling": True}, "tiling: no picture tiles here"),
        ({"background": "transparent"}, "background: transparent found; pictures are opaque here"),
        ({"enable_hr": True}, "enable_hr: width and height wanted beside it"),
        ({"positive": "b"}, "prompt: given twice, as prompt and as positive"),
        ({"override_settings": {"eta_ddim": 1}}, "override_settings: 'eta_ddim' is no setting of a row here"),
        ({"text_prompts": [{"text": "b"}]}, "text_prompts: weighted texts are Stability's"),
        ({"input": {"prompt": "b"}}, "prompt: given twice, beside the other fields and inside"),
        ({"input": "b"}, "input: unknown field"),
        ({"batch_size": "many"}, "num_images: Input should be a valid integer"),
    ],
)
def test_what_asks_for_another_kind_of_picture_is_refused(fields: dict[str, Any], words: str) -> None:
    rows, errors, warnings = _row({"prompt": "a", **fields})
    assert (rows, warnings) == ([], [])
    assert words in errors[0]


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_is_ignored_is_named(name: str) -> None:
    rows, errors, warnings = _row({"prompt": "a", name: "x"})
    assert (len(rows), errors) == (1, [])
    assert warnings == [f"line 1: {name}: ignored: {IGNORED[name]}"]
    assert _row({"prompt": "a", name: None})[2] == []
