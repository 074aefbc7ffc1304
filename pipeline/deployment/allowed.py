"""What a client needs to know of models and files that rows may name, as a deployment announces them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.checkpoints.control_files import ControlFile
from pipeline.deployment.recipes import ModelDefaults
from pipeline.loras.bases import SDXL
from pipeline.stored import Record


class AllowedModel(Record):
    """What a client needs to know of a model that rows may name."""

    revision: str
    native_px: int
    defaults: ModelDefaults = Field(ModelDefaults(), description="What rows get with it where they say nothing.")
    refiner_switch_at: float | None = Field(None, description="Where its refiner takes over; none: it has none.")
    clip_vocabulary: bool | None = Field(
        None, description="Whether its tokenizers have CLIP's, so that tokens can be counted; None: it is not known."
    )
    inpainting: bool | None = Field(
        None, description="Whether it paints masked parts of pictures alone; None: it is not known."
    )


def _unsaid(value: object) -> bool:
    return value is None


class AllowedFile(Record):
    """What all files of allow-lists have."""

    models: tuple[str, ...] = Field((), description="Model ids that it fits; none means all.")
    names: tuple[str, ...] = Field((), description="Those beside its id: aliases and its file's name.")
    base: str | None = Field(
        None, exclude_if=_unsaid, description="The base model that its file was made for; None: it is not known."
    )

    @property
    def refusal(self) -> str | None:
        """Why no model can use it; None if it may."""
        return f"was made for {self.base}, not for SDXL" if self.base not in (None, SDXL) else None

    def fits(self, model: str) -> bool:
        """Whether it was made for this model."""
        return not self.models or model in self.models


class AllowedLora(AllowedFile):
    """What a client needs to know of a LoRA that rows may name."""

    defaults: ModelDefaults = Field(ModelDefaults(), description="What rows get with it where they say nothing.")


class AllowedEmbedding(AllowedFile):
    """What a client needs to know of an embedding (textual inversion) that prompts may name."""


class AllowedControlNet(AllowedFile):
    """What a client needs to know of a control network that rows may name."""

    file: ControlFile | None = Field(None, exclude_if=_unsaid, description="What it is; None: it is not known.")


class AllowedIPAdapter(AllowedFile):
    """What a client needs to know of an IP-Adapter that rows may name."""


class Everything(dict[str, Any]):
    """An allow-list with every name on it."""

    def __init__(self, each: Any) -> None:
        super().__init__()
        self._each = each

    def __contains__(self, _name: object) -> bool:
        return True

    def __missing__(self, _name: str) -> Any:
        return self._each
