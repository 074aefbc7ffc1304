"""Prompt sets that lie in a bucket, for schedules to read: put there, and looked for."""

from __future__ import annotations

from pathlib import Path

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import RequestError, StoreRefused
from pipeline.promptset.formats.source import kind_of

log = structlog.get_logger(__name__)

# Below the deployment's prefix these are Tessera's own.
OWN = ("batches/", "schedules/", "ledger.json")


def put_prompt_file(artifacts: Artifacts, path: Path, url: str | None = None) -> str:
    """Copy a prompt set into a bucket, over what may be there; returns its URL.

    Args:
        artifacts: whose credentials write it.
        path: of the prompt set, whose name says what it is.
        url: s3://BUCKET/KEY; by default prompts/NAME below the deployment's prefix.

    Raises RequestError, ServiceError.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error
    with file:
        target = url or f"{artifacts.root}prompts/{path.name}"
        kind_of(target)
        if target.removeprefix(artifacts.root).startswith(OWN):
            raise RequestError(f"{target} found; another key wanted: Tessera keeps its own records there")
        artifacts.put_url(target, file)
    return target


def check_there(artifacts: Artifacts, url: str) -> None:
    """Raise RequestError if a schedule's prompt set is not there. What only the controller may read is let pass."""
    try:
        next(artifacts.chunks_of(url), None)
    except StoreRefused as error:
        log.warning("whether the prompt set is there is not known: only the controller may read it", reason=str(error))
    except RequestError as error:
        raise RequestError(
            f"{error}; put it there with `tessera put FILE {url}`, or add the schedule with --missing-ok if it comes "
            "later"
        ) from error
