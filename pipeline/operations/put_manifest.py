"""The PUT of batch.json, which accepts a batch, and what became of it if its answer was lost."""

from __future__ import annotations

import itertools
import time
from functools import partial

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import AcceptanceUnknown, ServiceError, StoreRefused
from pipeline.process.backoff import backoff_s
from pipeline.process.deadline import Deadline, OutOfTime
from pipeline.records.batch import BatchManifest
from pipeline.records.object_keys import BatchObjects

log = structlog.get_logger(__name__)

# How long a lost answer is asked for, after the submission's own time.
ASK_AGAIN_S = 20.0


def put_manifest(artifacts: Artifacts, manifest: BatchManifest, deadline: Deadline) -> bool:
    """The PUT that accepts the batch; False if there is a batch of that id. Raises AcceptanceUnknown, StoreRefused."""
    key, body = BatchObjects(manifest.id).manifest, manifest.model_dump_json().encode()
    try:
        return deadline.call(f"writing {key}", lambda: artifacts.put_new(key, body, content_type="application/json"))
    except StoreRefused:
        raise
    except ServiceError as error:
        log.warning("no answer to the request that accepts the batch; asking again", batch=manifest.id)
        return _put_again(artifacts, manifest.id, key, body, error)


def _put_again(artifacts: Artifacts, batch_id: str, key: str, body: bytes, lost: ServiceError) -> bool:
    """What became of a PUT whose answer was lost, by asking for the very same again for a while.

    If the first one arrived, the condition refuses this one, and the digest says that what is there is ours.
    Raises AcceptanceUnknown if the store stays away.
    """
    deadline = Deadline(ASK_AGAIN_S)
    for failures in itertools.count(1):
        try:
            return deadline.call(
                f"asking whether {key} is there", lambda: artifacts.put_new(key, body, content_type="application/json")
            )
        except (OutOfTime, StoreRefused):
            break
        except ServiceError:
            try:
                deadline.call("waiting for S3", partial(time.sleep, backoff_s(failures, first_s=0.5)))
            except OutOfTime:
                break
    raise AcceptanceUnknown(batch_id, str(lost)) from lost
