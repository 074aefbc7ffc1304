"""From a row to the engine's image, and from a rendered image to what its result records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from distri.model.adapters.lora import Lora
from distri.model.control.controlnets import ControlNet
from distri.model.image import ControlPicture, Fit, ImageSpec, Inpaint, Pixels, Rendered, StartPicture
from distri.model.passes.stages import Enlargement, Highres
from distri.model.reference.ip_adapter import IPAdapter
from distri.model.reference.references import KeptTokens, ReferencePicture
from distri.model.text.prompts import LongPrompt
from distri.ranks.errors import BadControlNet, BadLora, BadReference
from distri.run.preprocessors import preprocessed
from distri.run.prompts import prompts_of
from pipeline.deployment.settings import ControlNetSource, EmbeddingSource, IPAdapterSource, LoraSource
from pipeline.input_picture import AdapterReference, Control
from pipeline.picture import Conditioning, HighresMode, Picture, RenderDetails, Stage
from pipeline.picture import Lora as RowLora
from pipeline.promptset.decisions.prompts import unread_syntax, unread_warning
from pipeline.records.object_keys import BatchObjects
from pipeline.records.provenance import Provenance
from pipeline.records.results import FailureCode, ImageFailure, ImageResult, failure_of, result_of
from pipeline.records.shards import ImageTask

_NO_CONTROL: Mapping[str, ControlNetSource] = {}
_NO_ADAPTERS: Mapping[str, IPAdapterSource] = {}
_NO_PIXELS: Mapping[str, Pixels] = {}
LOW_MEMORY_REPAIR = "rendered again in the leaner layout: out of memory before"

# What a row and the engine's image call alike; what is translated comes over it.
_OF_ONE_NAME = tuple(field.name for field in fields(ImageSpec) if field.name in Picture.model_fields)


def image_of(
    task: ImageTask,
    loras: Mapping[str, LoraSource],
    embeddings: Mapping[str, EmbeddingSource],
    controlnets: Mapping[str, ControlNetSource] = _NO_CONTROL,
    ip_adapters: Mapping[str, IPAdapterSource] = _NO_ADAPTERS,
    *,
    pixels: Mapping[str, Pixels] = _NO_PIXELS,
    kept_tokens: KeptTokens | None = None,
) -> ImageSpec:
    """The image as the engine is asked for it. Sizes are width and height in a row, height and width in the engine.

    Args:
        task: the image.
        loras, embeddings, controlnets, ip_adapters: the allow-lists of this pod.
        pixels: of the pictures and masks that the row is made of, by SHA-256; none where it is only decided what goes
            together.
        kept_tokens: where the leader finds what other engines have made of references.

    Raises:
        BadLora, BadInversion, BadControlNet, BadReference: the row names what is not on them; the same on all ranks.
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
        "control": tuple(_control(one, controlnets, pixels.get(one.image.sha256)) for one in row.control),
        "references": tuple(_reference(one, ip_adapters, pixels, kept_tokens) for one in row.reference),
        "loras": tuple(_lora(one, loras) for one in row.loras),
        "highres": Highres(
            switch_at=None if row.cascade is None else row.cascade.switch_at,
            refine=row.highres.mode is HighresMode.REFINE,
            strength=row.highres.strength,
            steps=row.highres.steps,
            base_px=row.highres.base_px if row.cascade is None else row.cascade.base_px,
            window_px=row.later_passes.window_px,
            guidance_scale=row.later_passes.guidance_scale if row.cascade is None else row.cascade.guidance_scale,
            enlargement=Enlargement(row.later_passes.enlargement.value),
        ),
    }
    sizes = {name: _height_first(getattr(conditioning, name)) for name in Conditioning.model_fields}
    if row.inpaint is not None and row.inpaint.region is not None:
        translated["width"], translated["height"] = row.inpaint.region.rendered
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


def outcome_of(
    task: ImageTask, objects: BatchObjects, rendered: Rendered, provenance: Provenance
) -> ImageResult | ImageFailure:
    """The result of a rendered image; or why it is none: it shows nothing."""
    if not rendered.finite or rendered.blank:
        what = "holds values that are not finite" if not rendered.finite else "is of one colour"
        return failure_of(task, FailureCode.BLACK, f"the decoded picture {what}", retryable=True)
    seconds = rendered.encode_s + rendered.denoise_s + rendered.decode_s
    details = render_details_of(task.row, rendered, low_memory=provenance.lean)
    return result_of(task, objects, provenance, round(seconds, 3), details)


def _picture(row: Picture, pixels: Mapping[str, Pixels]) -> StartPicture | None:
    if row.image is None:
        return None
    inpaint, size = None, (row.image.width, row.image.height)
    if (painted := row.inpaint) is not None:
        at = painted.region
        region = None if at is None else (at.left, at.top, at.left + at.width, at.top + at.height)
        mask = pixels.get(painted.mask.sha256)
        inpaint = Inpaint(painted.grow, painted.feather, region, mask, painted.rounds)
    return StartPicture(*size, row.strength or 1.0, Fit(row.fit or Fit.FILL), pixels.get(row.image.sha256), inpaint)


def _control(wanted: Control, controlnets: Mapping[str, ControlNetSource], pixels: Pixels | None) -> ControlPicture:
    source = controlnets.get(wanted.model)
    if source is None:
        raise BadControlNet(wanted.model, "it is not in TESSERA_CONTROLNETS of this pod")
    return ControlPicture(
        ControlNet(Path(source.path), source.sha256),
        wanted.scale,
        wanted.start,
        wanted.end,
        Fit(wanted.fit),
        wanted.mode,
        None if pixels is None else preprocessed(pixels, wanted.preprocess),
    )


def _reference(
    wanted: AdapterReference,
    ip_adapters: Mapping[str, IPAdapterSource],
    pixels: Mapping[str, Pixels],
    kept_tokens: KeptTokens | None,
) -> ReferencePicture:
    source = ip_adapters.get(wanted.adapter)
    if source is None:
        raise BadReference(wanted.adapter, "it is not in TESSERA_IP_ADAPTERS of this pod")
    return ReferencePicture(
        IPAdapter(Path(source.path), Path(source.image_encoder), source.sha256, source.image_encoder_sha256),
        wanted.image.sha256,
        wanted.scale,
        pixels.get(wanted.image.sha256),
        None if wanted.mask is None else pixels.get(wanted.mask.sha256),
        masked=wanted.mask is not None,
        kept=kept_tokens,
    )


def _lora(wanted: RowLora, loras: Mapping[str, LoraSource]) -> Lora:
    source = loras.get(wanted.name)
    if source is None:
        raise BadLora(wanted.name, "it is not in TESSERA_LORAS of this pod")
    return Lora(Path(source.path), wanted.scale, source.sha256, wanted.text_scale, tuple(wanted.blocks.items()))


def _height_first(size: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if size is None else (size[1], size[0])
