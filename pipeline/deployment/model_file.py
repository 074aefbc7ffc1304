"""The models that a user has added to a data folder: what the local stack offers beside its demo model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from pipeline.deployment.settings import ModelSource
from pipeline.process.files import write_private
from pipeline.schema import Versioned, read_record

MODELS_FILE = "models.json"
SCHEMA_VERSION = 1


class AddedModels(Versioned):
    """The file: an allow-list, as TESSERA_MODELS has it."""

    schema_version: int = SCHEMA_VERSION
    models: dict[str, ModelSource] = Field(default_factory=dict)


def added_models(data_dir: Path) -> Mapping[str, ModelSource]:
    """The models of a data folder; none if it has no such file. Raises RecordUnreadable."""
    path = data_dir / MODELS_FILE
    if not path.is_file():
        return {}
    return read_record(AddedModels, path.read_text(encoding="utf-8"), what=str(path)).models


def add_model(data_dir: Path, name: str, source: ModelSource) -> Path:
    """Add a model to a data folder's file, or replace the one of that id; returns the file."""
    path = data_dir / MODELS_FILE
    added = AddedModels(models={**added_models(data_dir), name: source})
    write_private(path, added.model_dump_json(indent=2, exclude_none=True) + "\n")
    return path
