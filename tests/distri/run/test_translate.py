"""Rows to the engine's words and back, field by field."""

from pathlib import Path
from typing import Any

import pytest

from distri.model.image import Evaluations, Rendered
from distri.model.lora import Lora
from distri.model.prompts import LongPrompt
from distri.model.stages import Enlargement, Highres, Stage
from distri.ranks.errors import BadLora
from distri.run.translate import LOW_MEMORY_REPAIR, image_of, render_details_of
from pipeline.deployment.settings import EmbeddingSource, LoraSource
from pipeline.picture import Conditioning, HighresMode, LaterPasses, RenderDetails, Scheduler
from pipeline.picture import Enlargement as RowEnlargement
from pipeline.picture import Highres as RowHighres
from pipeline.picture import LongPrompt as RowLongPrompt
from pipeline.picture import Lora as RowLora
from pipeline.picture import Stage as MadeStage
from pipeline.records.shards import ImageTask
from tests.factories import resolved_row

EMBEDDINGS = {"dark": EmbeddingSource(path="/models/dark.safetensors", sha256="1" * 64, aliases=("Gloom",))}
LORAS = {"film": LoraSource(path="/models/film.safetensors", sha256="0" * 64)}


def _image(**changes: Any) -> Any:
    return image_of(ImageTask(resolved_row(**changes), 2), LORAS, EMBEDDINGS)


def test_every_field_of_a_row_reaches_the_engine() -> None:
    image = _image(
        prompt_2="second",
        negative_prompt="",
        negative_prompt_2="other",
        long_prompt=RowLongPrompt.CHUNK,
        scheduler=Scheduler(name="DDIMScheduler", settings={"eta": 0.5}),
        loras=(RowLora(name="film", scale=0.5),),
        highres=RowHighres(mode=HighresMode.REFINE, strength=0.4, steps=9, base_px=512),
        later_passes=LaterPasses(window_px=768, guidance_scale=1.0, enlargement=RowEnlargement.LATENTS),
        conditioning=Conditioning(
            original_size=(640, 480),
            crop=(3, 4),
            target_size=(64, 32),
            negative_original_size=(10, 20),
            negative_crop=(5, 6),
            negative_target_size=(30, 40),
        ),
        guidance_rescale=0.7,
        guidance_interval=(0.2, 0.9),
    )
    assert image.seed == resolved_row().seed + 2
    assert (image.prompt, image.prompt_2) == ("a harbour", "second")
    assert (image.negative_prompt, image.negative_prompt_2) == ("", "other")
    assert image.long_prompt is LongPrompt.CHUNK
    assert (image.scheduler, image.scheduler_settings) == ("DDIMScheduler", {"eta": 0.5})
    assert image.loras == (Lora(Path("/models/film.safetensors"), 0.5, "0" * 64),)
    assert image.highres == Highres(
        *(True, 0.4, 9, 512), window_px=768, guidance_scale=1.0, enlargement=Enlargement.LATENTS
    )
    assert image.time_ids((1, 2)) == (480, 640, 4, 3, 32, 64)
    assert image.negative_time_ids((1, 2)) == (20, 10, 6, 5, 40, 30)
    assert image.guidance_rescale == 0.7
    assert image.guidance_interval == (0.2, 0.9)


def test_what_a_row_leaves_open_is_open_to_the_engine() -> None:
    image = _image()
    assert (image.prompt_2, image.negative_prompt, image.negative_prompt_2) == (None, None, None)
    assert (image.scheduler, image.loras, image.highres) == (None, (), Highres())
    assert image.time_ids((48, 64)) == image.negative_time_ids((48, 64)) == (48, 64, 0, 0, 48, 64)


def test_a_lora_that_the_pod_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(BadLora, match="LoRA grain: it is not in TESSERA_LORAS"):
        _image(loras=(RowLora(name="grain"),))


@pytest.mark.parametrize("low_memory", [False, True])
def test_what_the_engine_made_is_in_the_result(low_memory: bool) -> None:
    rendered = Rendered(
        pixels=None,
        encode_s=0,
        denoise_s=0,
        decode_s=0,
        evaluations=Evaluations(1, 0),
        others=0,
        bytes_sent=0,
        finite=True,
        blank=False,
        stages=(Stage(64, 72, steps=3, strength=1.0, seed=7),),
        canvas=(64, 72),
        crop=(0, 2),
        left_out={"prompt": "the end"},
        warnings=("w",),
        repairs=("r",),
    )
    row = resolved_row(negative_prompt="a (bad:1.3) hand")
    assert render_details_of(row, rendered, low_memory=low_memory) == RenderDetails(
        canvas=(64, 72),
        crop=(0, 2),
        stages=(MadeStage(width=64, height=72, steps=3, strength=1.0, seed=7),),
        truncated={"prompt": "the end"},
        warnings=(
            "w",
            "negative_prompt looks like prompt syntax, as in (word:1.3), and is read as literal text; syntax: a1111 "
            "reads it, syntax: none says that it is meant literally",
        ),
        repairs=(LOW_MEMORY_REPAIR, "r") if low_memory else ("r",),
    )
