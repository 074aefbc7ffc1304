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
    default: str | None = Field(None, exclude_if=lambda value: value is None, description="Of rows that name none.")


def added_models(data_dir: Path) -> Mapping[str, ModelSource]:
    """The models of a data folder; none if it has no such file. Raises RecordUnreadable."""
    return _added(data_dir).models


def added_default(data_dir: Path) -> str | None:
    """The model there that rows get which name none, if one was chosen. Raises RecordUnreadable."""
    return _added(data_dir).default


def _added(data_dir: Path) -> AddedModels:
    path = data_dir / MODELS_FILE
    if not path.is_file():
        return AddedModels()
    return read_record(AddedModels, path.read_text(encoding="utf-8"), what=str(path))


def add_model(data_dir: Path, name: str, source: ModelSource, *, default: bool = False) -> Path:
    """Add a model to a data folder's file, or replace the one of that id; returns the file."""
    path, before = data_dir / MODELS_FILE, _added(data_dir)
    added = AddedModels(models={**before.models, name: source}, default=name if default else before.default)
    write_private(path, added.model_dump_json(indent=2, exclude_none=True) + "\n")
    return path
