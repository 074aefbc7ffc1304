"""A row to what the engine is asked for, and what the engine made to what the result says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distri.model.image import ImageSpec, Rendered
from distri.model.lora import Lora
from distri.model.prompts import LongPrompt
from distri.model.stages import Highres
from distri.ranks.errors import BadLora
from pipeline.deployment.settings import LoraSource
from pipeline.picture import HighresMode, Made, Stage
from pipeline.picture import Lora as RowLora
from pipeline.records.shards import ImageTask

LEAN = "rendered again in the leaner layout: out of memory before"


def image_of(task: ImageTask, loras: Mapping[str, LoraSource]) -> ImageSpec:
    """The engine's words for an image. Sizes are width and height in a row, height and width in the engine.

    Args:
        task: the image.
        loras: the allow-list of this pod.

    Raises:
        BadLora: the row names one that is not on it; the same on all ranks.
    """
    row, told = task.row, task.row.conditioning
    return ImageSpec(
        prompt=row.prompt,
        prompt_2=row.prompt_2,
        negative_prompt=row.negative_prompt,
        negative_prompt_2=row.negative_prompt_2,
        long_prompt=LongPrompt(row.long_prompt.value),
        seed=task.seed,
        width=row.width,
        height=row.height,
        steps=row.steps,
        guidance_scale=row.guidance_scale,
        guidance_rescale=row.guidance_rescale,
        scheduler=row.scheduler.name if row.scheduler is not None else None,
        scheduler_settings=row.scheduler.settings if row.scheduler is not None else {},
        loras=tuple(_lora(one, loras) for one in row.loras),
        highres=Highres(
            refine=row.highres.mode is HighresMode.REFINE,
            strength=row.highres.strength,
            steps=row.highres.steps,
            base_px=row.highres.base_px,
        ),
        original_size=_turned(told.original_size),
        crop=(told.crop[1], told.crop[0]),
        target_size=_turned(told.target_size),
        negative_original_size=_turned(told.negative_original_size),
        negative_crop=(told.negative_crop[1], told.negative_crop[0]),
        negative_target_size=_turned(told.negative_target_size),
    )


def made_of(rendered: Rendered, *, lean: bool) -> Made:
    """What only rendering shows; `lean`: it was rendered in less memory, since an attempt before ran out of it."""
    return Made(
        canvas=rendered.canvas,
        crop=rendered.crop,
        stages=tuple(
            Stage(width=one.width, height=one.height, steps=one.steps, strength=one.strength, seed=one.seed)
            for one in rendered.stages
        ),
        truncated=dict(rendered.left_out),
        warnings=rendered.warnings,
        repairs=((LEAN,) if lean else ()) + rendered.repairs,
    )


def _lora(wanted: RowLora, loras: Mapping[str, LoraSource]) -> Lora:
    source = loras.get(wanted.name)
    if source is None:
        raise BadLora(wanted.name, "it is not in TESSERA_LORAS of this pod")
    return Lora(Path(source.path), wanted.scale, source.sha256)


def _turned(size: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if size is None else (size[1], size[0])
