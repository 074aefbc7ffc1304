"""OpenAI's objects, as far as they mean something here. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed", "error"] = "processed"
    status_details: str | None = Field(
        None, exclude_if=lambda value: value is None, description="Why there is an error."
    )


class FilePage(BaseModel):
    """Some of the files."""

    object: Literal["list"] = "list"
    data: Sequence[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: Sequence[FileObject], *, has_more: bool) -> FilePage:
        """A page of these."""
        return cls(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=has_more,
        )


class RequestCounts(BaseModel):
    """Requests of a batch. Images are counted, where a line asks for several; lines that were left out have failed."""

    total: int
    completed: int
    failed: int


class BatchObject(BaseModel):
    """A batch. `tessera` holds what OpenAI's shape has no place for."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: None = None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    expires_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts
    metadata: dict[str, str] | None = None
    tessera: dict[str, Any] = Field(default_factory=dict)


class BatchPage(BaseModel):
    """Some of the batches, newest first."""

    object: Literal["list"] = "list"
    data: Sequence[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class NewBatch(BaseModel):
    """A request for a batch."""

    model_config = ConfigDict(extra="ignore")

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None


class ImageObject(BaseModel):
    """A picture: its bytes, or where they are."""

    b64_json: str | None = None
    url: str | None = None


class ImagesObject(BaseModel):
    """Pictures of one prompt."""

    created: int
    data: Sequence[ImageObject]
    size: str | None = None
    output_format: str | None = None
    batch: str = Field(description="Where to look: /api/batches/<batch>.")
