"""Reference pictures as a row names them, and as a text may: `face, image=anna.png, scale=0.6; style, image=s.png`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.input_picture import MAX_REFERENCE_SCALE
from pipeline.promptset.fields.named_objects import NamedObjects
from pipeline.promptset.fields.values import InputReference

MAX_REFERENCES = 8
_REFERENCES = NamedObjects(
    name="adapter",
    numbers=("scale",),
    others={
        "ip_adapter": "adapter",
        "model": "adapter",
        "name": "adapter",
        "weight": "scale",
        "strength": "scale",
        "ip_adapter_scale": "scale",
        "ip_adapter_image": "image",
        "attn_mask": "mask",
    },
    most=MAX_REFERENCES,
)


class WantedReference(BaseModel):
    """A picture that a row's picture shall resemble."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    adapter: str = Field(strict=True, min_length=1, max_length=256)
    image: InputReference
    scale: float = Field(1.0, strict=True, gt=0, le=MAX_REFERENCE_SCALE)
    mask: InputReference | None = None


References = Annotated[tuple[WantedReference, ...], BeforeValidator(_REFERENCES.read), Field(max_length=MAX_REFERENCES)]
