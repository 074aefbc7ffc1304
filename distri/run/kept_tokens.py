"""Tokens of references beside the batch's inputs: the first engine of a batch makes them, later ones read them."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import ServiceError
from pipeline.records.object_keys import BatchObjects

log = structlog.get_logger(__name__)

_DIGEST_BYTES = hashlib.sha256().digest_size


class BucketTokens:
    """What a leader reads and leaves there. See `distri.model.reference.references.KeptTokens`."""

    def __init__(self, artifacts: Artifacts, objects: BatchObjects) -> None:
        self._artifacts, self._objects = artifacts, objects
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="tokens")

    def read(self, name: str, size: int) -> bytes | None:
        """Tokens of so many bytes; None if there are none, they are damaged, or the store is away."""
        key = self._objects.reference_tokens(name)
        try:
            body = self._artifacts.get(key, _DIGEST_BYTES + size, patient=False)
        except ServiceError as error:
            log.warning("tokens of a reference are made here", reason=str(error))
            return None
        if body is None:
            return None
        digest, tokens = body[:_DIGEST_BYTES], body[_DIGEST_BYTES:]
        if len(tokens) != size or hashlib.sha256(tokens).digest() != digest:
            log.warning("tokens of a reference are made again", reason=f"{key} is damaged ({len(body):,} bytes)")
            return None
        return tokens

    def write(self, name: str, tokens: bytes) -> Future[None]:
        """Leave them for others, in the background; what fails is lost, and others make them themselves."""
        return self._writer.submit(self._write, self._objects.reference_tokens(name), tokens)

    def _write(self, key: str, tokens: bytes) -> None:
        try:
            body = hashlib.sha256(tokens).digest() + tokens
            self._artifacts.put(key, body, content_type="application/octet-stream")
        except ServiceError as error:
            log.warning("tokens of a reference are not kept", reason=str(error))
