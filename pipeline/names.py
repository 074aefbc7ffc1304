"""How batches, jobs, attempts, images and the variables of a pod are named, in records, keys, clusters and messages.

Nothing that a user writes is part of a name but the batch id, whose characters `checked_batch_id` restricts.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from pydantic import StringConstraints

from pipeline.errors import RequestError

# What a launcher says to a pod of itself; all else that it gives it are settings of the deployment.
ATTEMPT_VARIABLE = "TESSERA_ATTEMPT"  # the attempt's spec, as JSON
POD_UID_VARIABLE = "TESSERA_POD_UID"
TERMINATION_LOG_VARIABLE = "TESSERA_TERMINATION_LOG"  # where its report goes; unset, a kubelet's own place
ENGINE_FOLDER_VARIABLE = "TESSERA_ENGINE_FOLDER"  # where it may wait for another attempt; unset, it ends with this one
STANDALONE_VARIABLE = "TESSERA_STANDALONE"  # rows and pictures are files of its working folder: no Redis, no S3
POD_VARIABLES = frozenset(
    {ATTEMPT_VARIABLE, POD_UID_VARIABLE, TERMINATION_LOG_VARIABLE, ENGINE_FOLDER_VARIABLE, STANDALONE_VARIABLE}
)

# How a client names an HTTP API instead of Redis and S3. They are no settings of a deployment.
URL_VARIABLE, TOKEN_VARIABLE = "TESSERA_URL", "TESSERA_TOKEN"  # a name
CLIENT_VARIABLES = frozenset({URL_VARIABLE, TOKEN_VARIABLE})

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")

# How the newest batch is named where an id is wanted.
LAST = "last"

# Of records: an id that may be part of a key, a name and a path as it stands.
Id = Annotated[str, StringConstraints(pattern=f"^{ID.pattern}$")]

# The ledger keeps the state of an image in four bits of one string, which Redis limits to 512 MiB.
MAX_IMAGES_OF_BATCH = 2**30


def checked_id(text: str, what: str) -> str:
    """The text itself. Raises RequestError if it could not be part of a key, a name and a path as it stands."""
    if not ID.fullmatch(text):
        raise RequestError(
            f"{what} {text[:100]!r}: 1 to 80 letters, digits, '.', '_' and '-' wanted, a letter or digit first"
        )
    return text


def checked_batch_id(batch_id: str) -> str:
    """The id itself. Raises RequestError."""
    return checked_id(batch_id, "batch id")


def seed_of(batch_id: str) -> int:
    """The seed of a batch that was given none: the same submission under the same id has the same seeds."""
    return int.from_bytes(hashlib.sha256(batch_id.encode()).digest()[:4], "big")


def image_id(row: int, number: int) -> str:
    """The id of image `number` of a row, unique in its batch: 0000012-000."""
    return f"{row:07d}-{number:03d}"


def parsed_image_id(text: str) -> tuple[int, int]:
    """Row and number of an image. Raises RequestError."""
    row, dash, number = text.partition("-")
    if dash and row.isascii() and row.isdecimal() and number.isascii() and number.isdecimal():
        found = int(row[:12]), int(number[:12])
        if image_id(*found) == text:
            return found
    raise RequestError(f"image id {text[:40]!r} found; one as in 0000012-000 wanted")


def job_ref(batch_id: str, index: int) -> str:
    """How a job is named everywhere: batch/00003."""
    return f"{batch_id}/{index:05d}"


def batch_of(ref: str) -> str:
    """The batch of a job."""
    return ref.rpartition("/")[0]


def parsed_job_ref(text: str) -> tuple[str, int]:
    """Batch and index of a job that a person names, with or without leading zeros. Raises RequestError."""
    batch_id, _, index = text.partition("/")
    if not index.isascii() or not index.isdecimal():
        raise RequestError(f"{text[:100]!r} found; BATCH/JOB wanted, as in summer-catalogue/3")
    return checked_batch_id(batch_id), int(index)


def attempt_name(incarnation: str, job_index: int, number: int) -> str:
    """The attempt's name in the cluster, at most 63 characters, a valid DNS label.

    The batch's incarnation stands for the batch: ids that users choose may be long, and a ledger rebuilt from S3
    must not meet the names of what still runs.
    """
    return f"tessera-{incarnation}-{job_index:05d}-{number}"
