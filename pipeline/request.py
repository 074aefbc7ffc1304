"""One row of a prompt set: as a user writes it, and resolved, when nothing about it is open any more.

Precedence: the row, over what the command line or the client says for all rows, over the deployment's defaults.
A negative prompt of None (zeroed embeddings) and of "" (the encoded empty text) give different pictures, so the two
stay apart from here to the encoder.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.deployment import Deployment
from pipeline.picture import Picture
from pipeline.schema import Versioned

SCHEMA_VERSION = 1

MAX_PROMPT_CHARACTERS = 20_000
MAX_IMAGES_PER_ROW = 1_000
MIN_SIDE_PX, MAX_SIDE_PX = 64, 16_384
# Image i of a row has seed + i, and the sum must stay inside what torch takes as a seed.
MAX_SEED = 2**63 - 1 - MAX_IMAGES_PER_ROW

DEFAULT_STEPS = 30
DEFAULT_GUIDANCE_SCALE = 5.0


def _multiple_of_8(value: int) -> int:
    if value % 8:
        low = value - value % 8
        raise ValueError(f"{value} found; a multiple of 8 wanted, the nearest are {low} and {low + 8}")
    if not MIN_SIDE_PX <= value <= MAX_SIDE_PX:
        raise ValueError(f"{value} found; {MIN_SIDE_PX} to {MAX_SIDE_PX} wanted")
    return value


def _text(value: str) -> str:
    if bad := next((c for c in value if (c < " " and c not in "\t\n\r") or c == "\x7f"), None):
        raise ValueError(f"control character U+{ord(bad):04X} found; text wanted")
    return value


def _identifier(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("printable characters without blanks at the ends wanted")
    return value


def _prompt(value: str) -> str:
    if not value.strip():
        raise ValueError("empty; a text wanted")
    return _text(value)


Side = Annotated[int, Field(strict=True), AfterValidator(_multiple_of_8)]
Text = Annotated[str, Field(strict=True, max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_text)]
Prompt = Annotated[str, Field(strict=True, max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_prompt)]
CustomId = Annotated[str, Field(strict=True, min_length=1, max_length=256), AfterValidator(_identifier)]


class Options(BaseModel):
    """What may be said about a picture, for one row or for all of them. Unset means: ask the next level."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    negative_prompt: Text | None = None
    num_images: int = Field(1, strict=True, ge=1, le=MAX_IMAGES_PER_ROW)
    width: Side | None = None
    height: Side | None = None
    steps: int = Field(DEFAULT_STEPS, strict=True, ge=1, le=1000)
    guidance_scale: float = Field(DEFAULT_GUIDANCE_SCALE, strict=True, ge=0, le=100)
    guidance_rescale: float = Field(0.0, strict=True, ge=0, le=1)
    model: str | None = Field(None, strict=True)

    def over(self, lower: Options) -> dict[str, Any]:
        """What is set here, and what only `lower` sets."""
        return lower.model_dump(exclude_unset=True) | self.model_dump(exclude_unset=True)


class Row(Options):
    """A row as the user writes it."""

    prompt: Prompt
    custom_id: CustomId | None = None
    seed: int | None = Field(None, strict=True, ge=0, le=MAX_SEED)
    metadata: dict[str, str | int | float | bool | None] = Field(default_factory=dict, max_length=64)


class ResolvedRow(Versioned, Picture):
    """A row with everything decided: what a retry, another layout or a replay renders is what this says."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    schema_version: int = SCHEMA_VERSION
    row: int = Field(ge=0, description="Position in the prompt set, from 0.")
    first_image: int = Field(ge=0, description="Position of its first image among all images of the batch.")
    custom_id: str
    seed: int
    num_images: int


def derived_seed(batch_seed: int, custom_id: str) -> int:
    """The seed of a row that names none, below 2^32: it follows from batch seed and row id, not from its place."""
    return int.from_bytes(hashlib.sha256(f"{batch_seed}:{custom_id}".encode()).digest()[:4], "big")


def resolve(
    row: Row, defaults: Options, deployment: Deployment, *, line: int, index: int, first_image: int, batch_seed: int
) -> ResolvedRow:
    """Decide everything that the row leaves open; without a custom_id it is named for its line.

    Raises ValueError with (field, message) for what only shows when all levels are known: an image larger than the
    deployment renders, one too small for its layout, a model that is not on the allow-list.
    """
    said = row.over(defaults)
    model = said.get("model") or deployment.default_model
    if model is None:
        raise ValueError("model", f"none given, and the deployment has no default; allowed are {deployment.listed()}")
    if model not in deployment.models:
        raise ValueError("model", f"{model[:80]!r} is not on the allow-list; allowed are {deployment.listed()}")
    native_px = deployment.models[model].native_px
    width, height = said.get("width") or native_px, said.get("height") or native_px
    if width * height > deployment.max_megapixels * 1e6:
        found = f"{width}x{height} is {width * height / 1e6:.1f} megapixels"
        raise ValueError("width", f"{found}; the deployment renders up to {deployment.max_megapixels:g}")
    if max(width, height) < deployment.shortest_long_side_px:
        raise ValueError(
            "width",
            f"{width}x{height} found; the deployment's layout {deployment.layout} wants a longer side of at least "
            f"{deployment.shortest_long_side_px} px",
        )
    custom_id = row.custom_id if row.custom_id is not None else f"row-{line}"
    return ResolvedRow(
        row=index,
        first_image=first_image,
        custom_id=custom_id,
        prompt=row.prompt,
        negative_prompt=said.get("negative_prompt"),
        seed=row.seed if row.seed is not None else derived_seed(batch_seed, custom_id),
        num_images=said.get("num_images", 1),
        width=width,
        height=height,
        steps=said.get("steps", DEFAULT_STEPS),
        guidance_scale=said.get("guidance_scale", DEFAULT_GUIDANCE_SCALE),
        guidance_rescale=said.get("guidance_rescale", 0.0),
        model=model,
        metadata=row.metadata,
    )
