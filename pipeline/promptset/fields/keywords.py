"""The fields of a picture as keyword arguments, for editors and type checkers: `submit(..., steps=20)`.

A test compares the names with those of `pipeline.promptset.fields.row.Options`, which says what each means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Pair = str | tuple[int, int] | list[int]
Size = Pair | int


class PictureFields(TypedDict, total=False):
    """What may be given for all rows of a batch; a row's own values come first."""

    prompt_2: str | None
    negative_prompt: str | None
    negative_prompt_2: str | None
    syntax: Literal["a1111", "comfy", "compel", "none"] | None
    clip_skip: int
    long_prompt: Literal["error", "chunk", "truncate"]
    seed: int | None
    num_images: int
    width: int | None
    height: int | None
    size: Size | None
    aspect: str | float | None
    megapixels: float | None
    steps: int
    guidance_scale: float
    guidance_rescale: float
    guidance_interval: str | Sequence[float]
    scheduler: str | Mapping[str, Any] | None
    timesteps: str | Sequence[float] | None
    sigmas: str | Sequence[float] | None
    model: str | None
    loras: str | Sequence[str | Mapping[str, Any]]
    highres: Literal["auto", "direct", "refine", "cascade"] | str | Mapping[str, Any]
    image: str | None
    strength: float | None
    fit: Literal["fill", "fit", "stretch"] | None
    mask: str | None
    mask_grow: int
    mask_feather: int
    mask_rounds: int
    canvas: str | Sequence[int] | None
    only_masked: bool
    mask_padding: int
    masked_size: Size | None
    control: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
    reference: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
    refiner_switch_at: float | None
    resync: float | None
    norm_mode: Literal["corrected", "stale", "synchronous", "local"] | None
    most_work: float | None
    settling_steps: int | None
    original_size: Size | None
    crop: Pair
    target_size: Size | None
    negative_original_size: Size | None
    negative_crop: Pair
    negative_target_size: Size | None
    format: Literal["png", "jpeg", "webp"]
    quality: int
    dpi: int
    strip_metadata: bool
