"""How a large picture is made, as far as a user decides it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.input_picture import MAX_SIDE_PX
from pipeline.picture import Enlargement, HighresAttention
from pipeline.promptset.names.aliases import BadFields


class HighresChoice(StrEnum):
    """How a user wants a large picture made."""

    AUTO = "auto"  # refine where the picture is much larger than the model's native size, else direct
    DIRECT = "direct"
    REFINE = "refine"
    CASCADE = "cascade"  # one trajectory, whose early evaluations are those of smaller pictures


class HighresOptions(BaseModel):
    """How a large picture is made, as far as a user decides it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    mode: HighresChoice = HighresChoice.AUTO
    strength: float = Field(0.3, strict=True, gt=0, le=1)
    steps: int = Field(30, strict=True, ge=1, le=1000)
    base_px: int = Field(1024, strict=True, ge=64, le=4096)
    attention: HighresAttention = HighresAttention.WHOLE
    window_px: int = Field(1024, strict=True, ge=64, le=MAX_SIDE_PX)
    guidance_scale: float = Field(5.0, strict=True, ge=0, le=100)
    enlargement: Enlargement = Enlargement.PIXELS
    switch_at: float = Field(0.6, strict=True, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _base_size(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "base_size" in given and "base_px" not in given:
            return {"base_px" if key == "base_size" else key: value for key, value in given.items()}
        return given

    @model_validator(mode="after")
    def _of_its_mode(self) -> Self:
        given, mode = self.model_fields_set, self.mode
        of_cascade = {"mode", "switch_at", "base_px", "guidance_scale"}
        if mode is HighresChoice.CASCADE and (others := sorted(given - of_cascade)):
            raise BadFields(dict.fromkeys(others, "given beside cascade, which has one schedule and no later passes"))
        if "switch_at" in given and "mode" in given and mode is not HighresChoice.CASCADE:
            raise BadFields({"switch_at": f"given beside {mode.value}; it is a setting of cascade"})
        return self

    @model_validator(mode="after")
    def _windows_of_windows(self) -> Self:
        if {"attention", "window_px"} <= self.model_fields_set and self.attention is HighresAttention.WHOLE:
            raise BadFields({"window_px": "given beside attention whole, which has no windows"})
        return self
