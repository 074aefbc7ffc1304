"""From a row to the engine's image, and from a rendered image to what its result records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from distri.model.image import Fit, ImageSpec, Pixels, Rendered, StartPicture
from distri.model.lora import Lora
from distri.model.prompts import LongPrompt
from distri.model.stages import Enlargement, Highres
from distri.ranks.errors import BadLora
from distri.run.prompts import prompts_of
from pipeline.deployment.settings import EmbeddingSource, LoraSource
from pipeline.picture import Conditioning, HighresMode, Picture, RenderDetails, Stage
from pipeline.picture import Lora as RowLora
from pipeline.promptset.prompts import unread_syntax, unread_warning
from pipeline.records.shards import ImageTask

LOW_MEMORY_REPAIR = "rendered again in the leaner layout: out of memory before"

# What a row and the engine's image call alike; what is translated comes over it.
_OF_ONE_NAME = tuple(field.name for field in fields(ImageSpec) if field.name in Picture.model_fields)


def image_of(
    task: ImageTask,
    loras: Mapping[str, LoraSource],
    embeddings: Mapping[str, EmbeddingSource],
    pixels: Pixels | None = None,
) -> ImageSpec:
    """The image as the engine is asked for it. Sizes are width and height in a row, height and width in the engine.

    Args:
        task: the image.
        loras, embeddings: the allow-lists of this pod.
        pixels: of the picture that the row begins with.

    Raises:
        BadLora, BadInversion: the row names one that is not on them; the same on all ranks.
        BadImage: a prompt cannot be read in the row's syntax.
    """
    row, conditioning = task.row, task.row.conditioning
    translated: dict[str, Any] = {
        **prompts_of(row, embeddings),
        "long_prompt": LongPrompt(row.long_prompt.value),
        "seed": task.seed,
        "scheduler": row.scheduler.name if row.scheduler is not None else None,
        "scheduler_settings": row.scheduler.settings if row.scheduler is not None else {},
        "picture": _picture(row, pixels),
        "loras": tuple(_lora(one, loras) for one in row.loras),
        "highres": Highres(
            refine=row.highres.mode is HighresMode.REFINE,
            strength=row.highres.strength,
            steps=row.highres.steps,
            base_px=row.highres.base_px,
            window_px=row.later_passes.window_px,
            guidance_scale=row.later_passes.guidance_scale,
            enlargement=Enlargement(row.later_passes.enlargement.value),
        ),
    }
    sizes = {name: _height_first(getattr(conditioning, name)) for name in Conditioning.model_fields}
    return ImageSpec(**{name: getattr(row, name) for name in _OF_ONE_NAME} | sizes | translated)


def render_details_of(row: Picture, rendered: Rendered, *, low_memory: bool) -> RenderDetails:
    """What only rendering shows, and what of the row was not read.

    `low_memory`: it was rendered so, since an earlier attempt ran out of memory.
    """
    unread = tuple(f"{name} {unread_warning(example, row.syntax)}" for name, example in unread_syntax(row))
    return RenderDetails(
        canvas=rendered.canvas,
        crop=rendered.crop,
        stages=tuple(
            Stage(width=one.width, height=one.height, steps=one.steps, strength=one.strength, seed=one.seed)
            for one in rendered.stages
        ),
        truncated=dict(rendered.left_out),
        warnings=rendered.warnings + unread,
        repairs=((LOW_MEMORY_REPAIR,) if low_memory else ()) + rendered.repairs,
    )


def _picture(row: Picture, pixels: Pixels | None) -> StartPicture | None:
    """`pixels` are None where it is only decided what is rendered together."""
    if row.image is None:
        return None
    return StartPicture(row.image.width, row.image.height, row.strength or 1.0, Fit(row.fit or Fit.FILL), pixels)


def _lora(wanted: RowLora, loras: Mapping[str, LoraSource]) -> Lora:
    source = loras.get(wanted.name)
    if source is None:
        raise BadLora(wanted.name, "it is not in TESSERA_LORAS of this pod")
    return Lora(Path(source.path), wanted.scale, source.sha256, wanted.text_scale, tuple(wanted.blocks.items()))


def _height_first(size: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if size is None else (size[1], size[0])
