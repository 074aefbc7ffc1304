"""The files of batches over HTTP, in the place of the bucket, to be read: nothing is written."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from datetime import timedelta
from typing import IO, Any
from urllib.parse import quote

from pipeline.bucket.artifacts import Artifacts, StoredObject
from pipeline.bucket.bodies import split_lines
from pipeline.client.remote.http import HttpApi
from pipeline.errors import ObjectGone, RecordUnreadable, RequestError
from pipeline.records.object_keys import BATCHES
from pipeline.records.object_sizes import RECORD_BYTES, largest


class RemoteArtifacts(Artifacts):
    """Keys are those of the bucket. Safe to share between threads."""

    def __init__(self, api: HttpApi) -> None:
        self._api = api
        self.bucket = ""

    @property
    def _client(self) -> Any:  # type: ignore[override]
        """What all that is not below would ask."""
        raise RequestError(
            f"this needs credentials of the deployment's bucket, which a token of {self._api.url} does not give: run "
            "it where TESSERA_REDIS_URL and TESSERA_S3_BUCKET are set, without TESSERA_URL"
        )

    _impatient = _client

    @property
    def root(self) -> str:
        """Only who has its credentials names objects by URL."""
        return str(self._client)

    @property
    def where(self) -> str:
        """The API's address, for messages."""
        return self._api.url

    def get(self, key: str, most_bytes: int | None = None, *, patient: bool = True) -> bytes | None:
        """As of the bucket."""
        most_bytes = largest(key) if most_bytes is None else most_bytes
        chunks = self._opened(key)
        if chunks is None:
            return None
        body = bytearray()
        for chunk in chunks:
            body += chunk
            if len(body) > most_bytes:
                raise RecordUnreadable(key, f"an object of more than {most_bytes:,} bytes", f"at most {most_bytes:,}")
        return bytes(body)

    def copy_to(self, key: str, file: IO[bytes], most_bytes: int | None = None) -> str | None:
        """As of the bucket."""
        chunks, digest = self._opened(key), hashlib.sha256()
        left = math.inf if most_bytes is None else most_bytes + 1
        if chunks is None:
            return None
        for chunk in chunks:
            digest.update(part := chunk[: int(min(left, len(chunk)))])
            file.write(part)
            if (left := left - len(part)) <= 0:
                break
        return digest.hexdigest()

    def lines(self, key: str) -> Iterator[bytes]:
        """As of the bucket."""
        chunks = self._opened(key)
        if chunks is None:
            raise ObjectGone(key, self.where)
        return split_lines(chunks, RECORD_BYTES)

    def head(self, key: str) -> StoredObject | None:
        """As of the bucket; metadata are not passed on."""
        batch_id, name = _parted(key)
        answer = self._api.open(f"/api/batches/{batch_id}/objects/{quote(name)}")
        if answer is None:
            return None
        answer.close()
        return StoredObject(key, int(answer.headers.get("Content-Length", 0)), answer.headers.get("ETag", ""), {})

    def sizes(self, folder: str) -> Iterator[tuple[str, int]]:
        """As of the bucket."""
        batch_id, name = _parted(folder)
        answer = self._api.open(f"/api/batches/{batch_id}/objects", {"folder": name})
        if answer is None:
            return
        for line in split_lines(self._api.chunks(answer), RECORD_BYTES):
            found = json.loads(line)
            yield f"{BATCHES}{batch_id}/{found['key']}", int(found["size_bytes"])

    def presigned(self, key: str, life: timedelta) -> str:  # as of the bucket
        """Links are made with the bucket's credentials, so there is none."""
        raise RequestError(
            "links that work without credentials are made with those of the bucket, which a token does not give; "
            "`download` fetches the files"
        )

    def _opened(self, key: str) -> Iterator[bytes] | None:
        batch_id, name = _parted(key)
        answer = self._api.open(f"/api/batches/{batch_id}/objects/{quote(name)}")
        return None if answer is None else self._api.chunks(answer)


def _parted(key: str) -> tuple[str, str]:
    """A batch and the rest of the key."""
    batch_id, _, name = key.removeprefix(BATCHES).partition("/")
    return quote(batch_id, safe=""), name
