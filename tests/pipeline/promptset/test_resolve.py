"""What becomes of what a row leaves open: levels, defaults that follow from others, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.deployment.allowed import AllowedLora, AllowedModel
from pipeline.deployment.recipes import RECIPES, ModelDefaults, Recipe, with_recipe
from pipeline.picture import (
    Cascade,
    Conditioning,
    Enlargement,
    File,
    Format,
    Highres,
    HighresMode,
    LaterPasses,
    LongPrompt,
    Lora,
)
from pipeline.promptset.decisions.options import Decisions
from pipeline.promptset.decisions.resolve import resolve
from pipeline.promptset.fields.row import Options, ResolvedRow, Row
from pipeline.promptset.names.samplers import scheduler_of
from tests.factories import deployment

SDXL = {"sdxl": AllowedModel(revision="r", native_px=1024)}


def _resolved(row: dict[str, Any], defaults: dict[str, Any] | None = None, **deployed: Any) -> ResolvedRow:
    return resolve(
        Row.model_validate({"prompt": "p"} | row),
        Decisions(Options.model_validate(defaults or {}), deployment(**({"max_megapixels": 64.0} | deployed))),
        line=3,
        index=2,
        first_image=5,
        batch_seed=11,
    )


@pytest.mark.parametrize(
    ("name", "of_row", "of_batch", "of_deployment"),
    [
        ("prompt_2", "oil", "ink", None),
        ("negative_prompt_2", "", "blur", None),
        ("long_prompt", LongPrompt.CHUNK, LongPrompt.TRUNCATE, LongPrompt.ERROR),
        ("scheduler", scheduler_of("DDIM"), scheduler_of("Euler a"), None),
        ("loras", (Lora(name="film"),), (Lora(name="grain", scale=0.5),), ()),
    ],
)
def test_the_row_outranks_what_holds_for_all_which_outranks_the_deployment(
    name: str, of_row: Any, of_batch: Any, of_deployment: Any
) -> None:
    loras = {"film": AllowedLora(), "grain": AllowedLora()}
    assert getattr(_resolved({name: of_row}, {name: of_batch}, loras=loras), name) == of_row
    assert getattr(_resolved({}, {name: of_batch}, loras=loras), name) == of_batch
    assert getattr(_resolved({}, {}, loras=loras), name) == of_deployment


@pytest.mark.parametrize("name", ["prompt_2", "negative_prompt", "negative_prompt_2", "scheduler", "model"])
def test_null_in_a_row_takes_back_what_holds_for_all(name: str) -> None:
    said = {"scheduler": "DDIM", "model": "other"}.get(name, "text")
    models = {name: AllowedModel(revision="r", native_px=256) for name in ("demo", "other")}
    with_null = getattr(_resolved({name: None}, {name: said}, models=models), name)
    assert with_null == {"model": "other"}.get(name)


def test_file_and_conditioning_come_from_their_own_fields() -> None:
    resolved = _resolved({"format": "webp", "quality": 80, "crop": "0,64"}, {"dpi": 72, "original_size": "512x768"})
    assert resolved.file == File(format=Format.WEBP, quality=80, dpi=72)
    assert resolved.conditioning == Conditioning(original_size=(512, 768), crop=(0, 64))
    assert ResolvedRow.model_validate_json(resolved.model_dump_json()) == resolved


@pytest.mark.parametrize(
    ("native_px", "size", "mode"),
    [
        (1024, (1024, 1024), HighresMode.DIRECT),
        (1024, (1250, 1200), HighresMode.DIRECT),  # 1.5 megapixels
        (1024, (1251, 1200), HighresMode.REFINE),
        (1024, (4096, 4096), HighresMode.REFINE),
        (512, (612, 612), HighresMode.DIRECT),
        (512, (613, 613), HighresMode.REFINE),
        (256, (264, 264), HighresMode.DIRECT),
        (256, (512, 512), HighresMode.REFINE),
    ],
)
def test_a_picture_well_above_the_models_native_area_is_refined_unless_said_otherwise(
    native_px: int, size: tuple[int, int], mode: HighresMode
) -> None:
    models = {"demo": AllowedModel(revision="r", native_px=native_px)}
    row = {"size": list(size)}
    assert _resolved(row, models=models).highres.mode is mode
    assert _resolved(row | {"highres": "auto"}, {"highres": "direct"}, models=models).highres.mode is mode
    assert _resolved(row, {"highres": "direct"}, models=models).highres == Highres()


def test_how_it_is_refined_is_said_member_by_member() -> None:
    row = {"size": "2048x2048", "highres": {"strength": 0.5}}
    wanted = Highres(mode=HighresMode.REFINE, strength=0.5, steps=40, base_px=512)
    batch = {"highres": "auto, strength=0.2, steps=40, base_px=512"}
    assert _resolved(row, batch, models=SDXL, default_model="sdxl").highres == wanted
    small = {"size": "256x256"}
    assert _resolved(small, batch, models=SDXL, default_model="sdxl").highres == Highres()


LARGE = {"size": "2048x2048"}


@pytest.mark.parametrize(
    ("highres", "wanted"),
    [
        ("cascade", Cascade(switch_at=0.6, guidance_scale=1.0)),
        ("cascade, switch_at=0.5, base_px=768", Cascade(switch_at=0.5, base_px=768, guidance_scale=1.0)),
        ("cascade, guidance_scale=4", Cascade(switch_at=0.6, guidance_scale=4.0)),
        ({"mode": "cascade", "switch_at": 0}, Cascade(switch_at=0.0)),
        ("cascade, switch_at=0.01", Cascade(switch_at=0.01)),  # of 50 steps none: the plain picture
        ("refine", None),
    ],
)
def test_a_cascade_has_no_later_passes(highres: Any, wanted: Cascade | None) -> None:
    batch = {"highres": "auto, strength=0.2, attention=windows"}
    found = _resolved(LARGE | {"highres": highres, "scheduler": "Euler a"}, batch, models=SDXL, default_model="sdxl")
    assert found.cascade == wanted
    assert (found.highres.mode is HighresMode.DIRECT) == (wanted is not None)
    assert ("cascade" in found.model_dump()) == (wanted is not None), "earlier versions do not know it"


@pytest.mark.parametrize(
    ("row", "deployed", "words"),
    [
        ({"scheduler": "DPM++ 2M Karras"}, {}, "beside DPM.. 2M Karras, which has other steps; Euler or Euler a do"),
        ({"size": "1200x1200"}, {}, "no twice the first size"),
        ({}, {"cascades": False}, "the deployment's version .* does not read"),
        ({"highres": "cascade, guidance_scale=4", "guidance_scale": 1}, {}, "guidance_scale 4 found for later passes"),
        ({"highres": "cascade, switch_at=0.01, guidance_scale=4"}, {}, "guidance_scale found beside switch_at 0.01 of"),
        ({"highres": "cascade, guidance_scale=4"}, {"cascade_guidance": False}, "guidance_scale .* does not read in a"),
    ],
)
def test_a_cascade_that_cannot_be_had_is_refused(row: dict[str, Any], deployed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        _resolved(LARGE | {"highres": "cascade"} | row, models=SDXL, default_model="sdxl", **deployed)
    assert error.value.args[0] == "highres"


def test_a_cascade_of_an_earlier_version_is_guided_to_its_end() -> None:
    row = LARGE | {"highres": "cascade"}
    found = _resolved(row, models=SDXL, default_model="sdxl", cascade_guidance=False)
    assert found.cascade == Cascade(switch_at=0.6)


@pytest.mark.parametrize(
    "highres", ["cascade, strength=0.3", "cascade, attention=whole", "refine, switch_at=0.5", "cascade, switch_at=1.0"]
)
def test_options_of_another_mode_are_refused(highres: str) -> None:
    with pytest.raises(ValueError, match=r"cascade|less than 1"):
        Row.model_validate({"prompt": "a", "highres": highres})


@pytest.mark.parametrize(
    ("row", "deployed", "wanted"),
    [
        ({}, {}, LaterPasses(window_px=1024)),
        ({}, {"highres_attention": "whole"}, LaterPasses()),
        ({}, {"highres_window_px": 768}, LaterPasses(window_px=768)),
        ({}, {"highres_enlargement": "latents"}, LaterPasses(window_px=1024, enlargement=Enlargement.LATENTS)),
        ({"attention": "windows"}, {"highres_attention": "whole"}, LaterPasses(window_px=1024)),
        ({"window_px": 512}, {"highres_attention": "whole"}, LaterPasses(window_px=512)),
        ({"attention": "whole"}, {}, LaterPasses()),
        ({"guidance_scale": 1.0, "enlargement": "frequencies"}, {}, LaterPasses(
            window_px=1024, guidance_scale=1.0, enlargement=Enlargement.FREQUENCIES
        )),
        ({"mode": "direct"}, {}, LaterPasses()),
        # An older deployment has whole attention alone.
        ({}, {"highres_attention": None}, LaterPasses()),
        ({"attention": "whole", "enlargement": "pixels"}, {"highres_attention": None}, LaterPasses()),
    ],
)  # fmt: skip
def test_later_passes_are_what_the_row_says_then_the_deployment(
    row: dict[str, Any], deployed: dict[str, Any], wanted: LaterPasses
) -> None:
    found = _resolved(LARGE | {"highres": row}, models=SDXL, default_model="sdxl", **deployed)
    assert found.later_passes == wanted
    assert ("later_passes" in found.model_dump()) == (wanted != LaterPasses()), "earlier versions do not know it"


@pytest.mark.parametrize(
    ("row", "deployed", "words"),
    [
        ({"highres": {"window_px": 512}}, {"highres_attention": None}, "window_px found, which the .* does not read"),
        ({"highres": {"guidance_scale": 2.0}, "guidance_scale": 1.0}, {}, "later passes of a picture without guidance"),
    ],
)
def test_options_of_later_passes_that_cannot_be_had_are_refused(
    row: dict[str, Any], deployed: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        _resolved(LARGE | row, models=SDXL, default_model="sdxl", **deployed)
    assert error.value.args[0] == "highres"


def test_a_window_beside_whole_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="given beside attention whole"):
        Row.model_validate({"prompt": "p", "highres": "refine, attention=whole, window_px=512"})


def test_a_picture_of_few_steps_gets_enough_for_its_second_pass() -> None:
    for steps in (1, 2, 3, 4, 30):
        highres = _resolved({"size": "512x512", "steps": steps}).highres
        assert int((highres.steps or steps) * highres.strength) >= 1


@pytest.mark.parametrize(
    ("row", "steps", "guidance_scale"),
    [
        ({}, 8, 1.0),
        ({"steps": 4}, 4, 1.0),
        ({"guidance_scale": 1.5}, 8, 1.5),
    ],
)
def test_lcm_has_defaults_of_its_own(row: dict[str, Any], steps: int, guidance_scale: float) -> None:
    for said, defaults in (({"scheduler": "LCM"} | row, {}), (row, {"scheduler": "LCM"})):
        resolved = _resolved(said, defaults)
        assert (resolved.steps, resolved.guidance_scale) == (steps, guidance_scale)


def test_the_quality_of_a_batch_is_for_its_lossy_rows() -> None:
    batch = {"format": "jpeg", "quality": 80}
    assert _resolved({}, batch).file == File(format=Format.JPEG, quality=80)
    assert _resolved({"format": "webp"}, batch).file == File(format=Format.WEBP, quality=80)
    assert _resolved({"format": "png"}, batch).file == File()


@pytest.mark.parametrize(
    ("row", "defaults", "field", "words"),
    [
        ({"size": "256x256", "highres": "refine"}, {}, "highres", "no larger than its first pass of 256x256"),
        (
            {"highres": "refine, base_px=64, strength=0.01, steps=10"},
            {},
            "highres",
            "0.01 of 10 steps is less than one",
        ),
        ({"scheduler": "LCM", "guidance_scale": 5.0}, {}, "guidance_scale", "5 found; .* at most 2 wanted"),
        ({"scheduler": "LCM"}, {"guidance_scale": 5.0}, "guidance_scale", "5 found"),
        ({"scheduler": "LCM", "steps": 60}, {}, "steps", "60 found; LCM picks from 50"),
        ({"quality": 80}, {}, "quality", "given for a PNG"),
        ({}, {"quality": 80}, "quality", "given for a PNG"),
        ({"format": "png", "quality": 80}, {"format": "jpeg"}, "quality", "given for a PNG"),
        ({"size": "16384x64", "format": "webp"}, {}, "format", "webp found for a side of 16384"),
        ({"aspect": 60.0}, {}, "height", "follows from the aspect; 64 to 16384 pixels wanted"),
        ({"aspect": "16:9", "megapixels": 200.0}, {}, "width", "18856 follows from the aspect|megapixels"),
        ({"loras": ["../../etc/passwd"]}, {}, "loras", "not on the allow-list; allowed are film, turbo"),
        ({}, {"loras": ["grain"]}, "loras", "'grain' is not on the allow-list"),
        ({"loras": ["turbo"]}, {}, "loras", "'turbo' is for sdxl; the row's model is 'demo'"),
    ],
)
def test_what_cannot_work_together_is_refused_by_field_with_the_reason(
    row: dict[str, Any], defaults: dict[str, Any], field: str, words: str
) -> None:
    loras = {"film": AllowedLora(), "turbo": AllowedLora(models=("sdxl",))}
    with pytest.raises(ValueError, match=words) as error:
        _resolved(row, defaults, loras=loras)
    assert error.value.args[0] == field


def test_webp_is_refused_where_other_programs_would_not_read_it() -> None:
    large = {"size": "16000x12500", "highres": "direct"}
    assert _resolved({**large, "format": "jpeg"}, max_megapixels=200.0).width == 16_000
    with pytest.raises(ValueError, match=r"webp found for 200 megapixels; .* png or jpeg wanted"):
        _resolved({**large, "format": "webp"}, max_megapixels=200.0)


@pytest.mark.parametrize(
    ("row", "batch", "steps"),
    [
        ({"scheduler": "Euler", "timesteps": "999, 500, 1"}, {}, 3),
        ({"scheduler": "Euler", "timesteps": "999, 500, 1", "steps": 3}, {}, 3),
        ({"scheduler": "Euler", "timesteps": "999, 500, 1"}, {"steps": 30}, 3),
        ({"scheduler": "Euler"}, {"sigmas": "14, 7, 0", "steps": 2}, 2),
    ],
)
def test_steps_are_as_many_as_timesteps(row: dict[str, Any], batch: dict[str, Any], steps: int) -> None:
    resolved = _resolved(row, batch)
    assert resolved.steps == steps == len(resolved.timesteps or resolved.sigmas or ())


@pytest.mark.parametrize(
    ("row", "batch", "words"),
    [
        ({"scheduler": "Euler", "timesteps": "9, 1", "steps": 3}, {}, "2 found for 3 steps"),
        ({"scheduler": "Euler", "steps": 3}, {"timesteps": "9, 1"}, "2 found for 3 steps"),
        ({"scheduler": "Euler a", "timesteps": "9, 1"}, {}, "Euler a takes none"),
        ({"timesteps": "9, 1"}, {}, "given without a scheduler"),
        ({"scheduler": "Euler", "timesteps": "9, 1", "sigmas": "9, 1"}, {}, "given beside sigmas"),
        ({"scheduler": "Euler", "timesteps": "9, 1", "highres": "refine, steps=5"}, {}, "beside the steps of highres"),
    ],
)
def test_timesteps_that_do_not_fit_are_refused(row: dict[str, Any], batch: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _resolved(row, batch)


def test_a_row_without_timesteps_is_stored_as_before() -> None:
    later = {"timesteps", "sigmas", "guidance_interval", "resync", "norm_mode", "most_work", "settling_steps"}
    assert not later & _resolved({}).model_dump().keys()


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("resync", 0.1, "displacements"),
        ("norm_mode", "synchronous", "displacements"),
        ("most_work", 1.5, "displacements"),
        ("settling_steps", 0, "settling"),
    ],
)
def test_a_row_says_how_it_is_displaced_where_the_deployment_asks_it(field: str, value: object, flag: str) -> None:
    assert _resolved({field: value}).model_dump(mode="json")[field] == value
    with pytest.raises(ValueError, match=f"{field}.*does not read"):
        _resolved({field: value}, None, **{flag: False})


@pytest.mark.parametrize("written", ["0.2, 0.8", [0.2, 0.8], "[0.2, 0.8]"])
def test_an_interval_of_guidance_is_read_where_pods_know_it(written: object) -> None:
    row = {"guidance_interval": written, "steps": 10}
    assert _resolved(row).guidance_interval == (0.2, 0.8)
    with pytest.raises(ValueError, match="does not read"):
        _resolved(row, guidance_intervals=False)


def _distilled(recipe: Recipe, **own: Any) -> dict[str, Any]:
    defaults = with_recipe(recipe, ModelDefaults(**own))
    return {"models": {"demo": AllowedModel(revision="r", native_px=256, defaults=defaults)}}


def test_a_models_recipe_stands_where_rows_say_nothing() -> None:
    model = _distilled(Recipe.LIGHTNING, steps=8)
    found = _resolved({}, **model)
    assert (found.steps, found.guidance_scale) == (8, 1.0)
    assert found.scheduler is not None
    assert (found.scheduler.name, found.scheduler.settings) == (
        "EulerDiscreteScheduler",
        {"timestep_spacing": "trailing"},
    )
    said = _resolved({"steps": 3}, {"guidance_scale": 2.0, "scheduler": "DDIM"}, **model)
    assert (said.steps, said.guidance_scale, said.scheduler) == (3, 2.0, scheduler_of("DDIM"))


def test_a_loras_recipe_stands_over_its_models() -> None:
    loras = {"fast": AllowedLora(defaults=RECIPES[Recipe.LCM]), "film": AllowedLora()}
    model = _distilled(Recipe.TURBO, guidance_rescale=0.5)
    assert _resolved({"loras": ["film"]}, loras=loras, **model).steps == 4
    found = _resolved({"loras": ["film", "fast"]}, loras=loras, **model)
    assert (found.steps, found.guidance_rescale) == (8, 0.5)
    assert found.scheduler is not None
    assert found.scheduler.name == "LCMScheduler"


def test_a_models_timesteps_yield_to_steps_or_a_scheduler_of_a_row() -> None:
    model = _distilled(Recipe.LCM, timesteps=[800], steps=1)
    found = _resolved({}, **model)
    assert (found.timesteps, found.steps) == ((800,), 1)
    assert _resolved({"steps": 4}, **model).timesteps is None


def test_where_the_refiner_takes_over_follows_from_row_and_model() -> None:
    models = {"demo": AllowedModel(revision="r", native_px=256, refiner_switch_at=0.8)}
    assert _resolved({}).refiner_switch_at is None
    assert _resolved({}, models=models).refiner_switch_at == 0.8
    assert _resolved({"refiner_switch_at": 0.6}, models=models).refiner_switch_at == 0.6
    assert _resolved({"refiner_switch_at": 1.0}, models=models).refiner_switch_at is None
    with pytest.raises(ValueError, match="the row's model has no refiner"):
        _resolved({"refiner_switch_at": 0.6})
    assert "refiner_switch_at" not in _resolved({}).model_dump()


def test_a_resolved_row_is_what_its_validation_gives_field_by_field_and_in_order() -> None:
    """`ResolvedRow.of_checked` validates nothing, for the values are those of a validated row."""
    for fields in (
        {},
        {"guidance_scale": 1, "size": "832x1216", "scheduler": "lcm", "metadata": {"a": 1, "b": None, "c": 0.5}},
        {"prompt_2": "b", "highres": "refine, strength=0.4", "width": 2048, "height": 2048, "loras": "film:0.5"},
        {
            "format": "webp",
            "quality": 80,
            "original_size": [64, 64],
            "negative_crop": "1,2",
            "timesteps": "999, 500",
            "scheduler": "Euler",
        },
    ):
        row = _resolved(fields, loras={"film": AllowedLora()})
        validated = ResolvedRow.model_validate(row.model_dump())
        assert row == validated
        assert row.model_dump_json() == validated.model_dump_json()
        assert row.model_copy(update={"row": 3}).row == 3
