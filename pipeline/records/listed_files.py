"""For which base models the files of the allow-lists are, as the Job that warms a cluster up has read them.

Kept by the files' digests, so that what is in it stays true whatever the lists say later.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from pipeline.checkpoints.control_files import ControlFile
from pipeline.schema import Versioned

SCHEMA_VERSION = 1
LISTED_FILES = "listed-files.json"  # key in the bucket

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ListedFiles(Versioned):
    """What is known of LoRAs, embeddings and control networks."""

    schema_version: int = SCHEMA_VERSION
    bases: dict[Sha256, str] = Field(
        default_factory=dict, description="By SHA-256 of a file, the base model that it was made for, where it tells."
    )
    control_files: dict[Sha256, ControlFile] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="By SHA-256 of a control network's file, what it is.",
    )
