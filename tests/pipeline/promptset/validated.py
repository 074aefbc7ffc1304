"""Rows that name pictures of a folder, validated as where a batch is submitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.deployment.allowed import AllowedModel
from pipeline.inputs.gathered import InputPictures
from pipeline.promptset.fields.row import Options, ResolvedRow
from pipeline.promptset.formats.source import Source
from pipeline.promptset.validate import Validation, resolved_rows
from tests.factories import deployment

SDXL = {"sdxl": AllowedModel(revision="r", native_px=1024), "other": AllowedModel(revision="r", native_px=1024)}


@dataclass(frozen=True)
class PictureRows:
    """What the rows of a test have in common.

    Attributes:
        deployed: what the deployment allows, beside SDXL, images and masks.
        of_all: what every row says that does not say it itself.
    """

    deployed: Mapping[str, Any] = field(default_factory=dict)
    of_all: Mapping[str, Any] = field(default_factory=dict)

    def found(
        self, folder: Path, *rows: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, **deployed: Any
    ) -> tuple[list[ResolvedRow], Validation]:
        """The rows that are valid, and what was found; `deployed` differs from what is allowed otherwise."""
        validation = Validation("rows", inputs=InputPictures([folder], keep=folder))
        whole = {"prompt": "p", "model": "sdxl", **self.of_all}
        source = Source("rows", ((number, whole | dict(row)) for number, row in enumerate(rows, 1)))
        allowed: dict[str, Any] = {"max_megapixels": 64.0, "models": SDXL, "images_in": True, "masks": True}
        known = deployment(**{**allowed, **self.deployed, **deployed})
        options = Options.model_validate(dict(defaults or {}))
        return list(resolved_rows(source, options, known, validation, batch_seed=1)), validation

    def refused(self, folder: Path, row: Mapping[str, Any], **deployed: Any) -> str:
        """Why a row is refused."""
        rows, validation = self.found(folder, row, **deployed)
        assert not rows
        return str(validation.errors[0])
