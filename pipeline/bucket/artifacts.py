"""The S3 side: put, get and list objects below the deployment's prefix (clients and errors: pipeline/bucket/s3.py).

`put_new` is the commit of everything that must exist once: a conditional PUT. A store that ignores the condition is
refused by `check`, because two pods of one image would overwrite each other there.

A little over 300 lines: it is one class, a few lines for each kind of request.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, TYPE_CHECKING, TypedDict

import botocore.exceptions as s3_errors
import structlog
from boto3.s3.transfer import TransferConfig
from botocore.response import StreamingBody

from pipeline.bucket.bodies import read_at_most, split_lines
from pipeline.bucket.requirements import Requirement, clock, conditional_put, refuses_delete_objects, requirements
from pipeline.bucket.s3 import ABSENT, CONFLICT, PRECONDITION_FAILED, Credentials, code_of, connect, translate_errors
from pipeline.deployment.settings import Settings, without_credentials
from pipeline.errors import ObjectGone, RecordUnreadable, RequestError, StoreRefused, StoreUnavailable
from pipeline.records.object_sizes import RECORD_BYTES, largest

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

log = structlog.get_logger(__name__)

PROBES = ".probe/"  # where `check` writes and deletes


@dataclass(frozen=True)
class StoredObject:
    """What a HEAD says of an object."""

    key: str
    size_bytes: int
    etag: str
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class TaggedObject:
    """An object's bytes, and the ETag by which it can be replaced."""

    body: bytes
    etag: str


@dataclass(frozen=True)
class ObjectStream:
    """An object, or a part of it: its chunks, asked for as they are read, and what the store says of it."""

    chunks: Iterator[bytes]
    size_bytes: int
    content_range: str | None
    content_type: str
    etag: str


class _Part(TypedDict, total=False):
    Range: str


class _Condition(TypedDict, total=False):
    IfNoneMatch: str
    IfMatch: str


class Artifacts:
    """Objects of one deployment. Keys are relative to its prefix. Safe to share between threads."""

    def __init__(self, settings: Settings, credentials: Credentials | None = None) -> None:
        self.bucket = settings.s3_bucket
        self._prefix = f"{settings.s3_prefix}/" if settings.s3_prefix else ""
        self._endpoint = settings.s3_endpoint
        clients = connect(settings, credentials)
        self._client, self._impatient, self._links = clients.patient, clients.impatient, clients.links
        self._deletes_singly = False

    def check(self) -> None:
        """Make sure, within seconds, that the bucket is there, lets us write and obeys conditions.

        Raises StoreUnavailable with what is wrong and what to do.
        """
        with self._errors():
            self._impatient.head_bucket(Bucket=self.bucket)
            condition = conditional_put(self._impatient, self.bucket, f"{self._prefix}{PROBES}{secrets.token_hex(8)}")
        if not condition.met:
            raise StoreUnavailable(f"S3 at {self.where}: {condition}")

    def requirements(self) -> list[Requirement]:
        """What Tessera needs of this store, tried out. Raises StoreUnavailable."""
        with self._errors():
            return list(requirements(self._impatient, self.bucket, f"{self._prefix}{PROBES}"))

    def clock(self) -> Requirement:
        """How far this machine's clock is from the store's, also if it refuses us. Raises StoreUnavailable."""
        with self._errors():
            return clock(self._impatient, self.bucket)

    def put_new(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
        over: str | None = None,
    ) -> bool:
        """Create an object; False if there is one already, which then stays as it is.

        An answer that was lost is asked for again: if what is there carries our own digest, it was we who put it.
        With `over`, the ETag of an object, that one is replaced; False if it is not the one that is there any more.
        """
        digest = sha256(body)
        condition: _Condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
        with self._errors():
            for last in (False, False, True):
                try:
                    self._client.put_object(
                        Bucket=self.bucket,
                        Key=self._prefix + key,
                        Body=body,
                        ContentType=content_type,
                        Metadata={**(metadata or {}), "sha256": digest},
                        **condition,
                    )
                except s3_errors.ClientError as error:
                    if code_of(error) in PRECONDITION_FAILED | ABSENT:
                        found = self.head(key)
                        return found is not None and found.metadata.get("sha256") == digest
                    if last or code_of(error) not in CONFLICT:  # two writers at the same instant: ask again
                        raise
                else:
                    return True
        raise AssertionError("unreachable: the last round returns or raises")

    def put(self, key: str, body: bytes | IO[bytes], *, content_type: str) -> None:
        """Write an object, over what may be there: for what follows from its inputs, where twice is harmless."""
        with self._errors():
            if isinstance(body, bytes):
                self._client.put_object(Bucket=self.bucket, Key=self._prefix + key, Body=body, ContentType=content_type)
            else:
                self._client.upload_fileobj(
                    body,
                    self.bucket,
                    self._prefix + key,
                    ExtraArgs={"ContentType": content_type},
                    # Whoever gives up on an upload must not wait for its threads when the interpreter ends.
                    Config=TransferConfig(use_threads=False),
                )

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if it is not there."""
        with self._errors():
            self._client.delete_object(Bucket=self.bucket, Key=self._prefix + key)

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove up to 1,000 objects with one request; those that are not there do not matter."""
        if self._deletes_singly:
            for key in keys:
                self.delete(key)
            return
        try:
            with self._errors():
                answer = self._client.delete_objects(
                    Bucket=self.bucket,
                    Delete={"Objects": [{"Key": self._prefix + key} for key in keys], "Quiet": True},
                )
        except StoreUnavailable as error:
            if not refuses_delete_objects(error.__cause__):
                raise
            log.warning("the store takes no DeleteObjects; objects are deleted one by one", reason=str(error))
            self._deletes_singly = True
            self.delete_all(keys)
            return
        for failed in answer.get("Errors", ()):
            raise StoreRefused(f"S3 at {self.where}: {failed.get('Code')} on deleting {failed.get('Key')}")

    def get(self, key: str, most_bytes: int | None = None, *, patient: bool = True) -> bytes | None:
        """The object's bytes, or None if it is not there; `patient` asks again where no answer comes.

        Raises RecordUnreadable if it is larger than `most_bytes`, by default than any object of its kind.
        """
        most_bytes = largest(key) if most_bytes is None else most_bytes
        with self._errors():
            body = self._body(key, self._client if patient else self._impatient)
            return None if body is None else read_at_most(body, most_bytes, what=key)

    def get_tagged(self, key: str) -> TaggedObject | None:
        """The object's bytes and its ETag, for `put_new(over=...)`; None if it is not there.

        Of one that is larger than any of its kind, no bytes: it is read as what is damaged, and can be replaced.
        """
        with self._errors():
            try:
                found = self._client.get_object(Bucket=self.bucket, Key=self._prefix + key)
            except s3_errors.ClientError as error:
                if code_of(error) in ABSENT:
                    return None
                raise
            try:
                return TaggedObject(read_at_most(found["Body"], largest(key), what=key), found["ETag"])
            except RecordUnreadable as error:
                log.warning("an object is too large to be read", reason=str(error))
                return TaggedObject(b"", found["ETag"])

    def copy_to(self, key: str, file: IO[bytes], most_bytes: int | None = None) -> str | None:
        """Write an object to a file as it comes; returns its SHA-256, or None if it is not there.

        Of one that is larger than `most_bytes` so much is written that it shows.
        """
        digest, left = hashlib.sha256(), math.inf if most_bytes is None else most_bytes + 1
        with self._errors():
            if (body := self._body(key)) is None:
                return None
        for chunk in self._chunks(body):
            digest.update(part := chunk[: int(min(left, len(chunk)))])
            file.write(part)
            if (left := left - len(part)) <= 0:
                body.close()
                break
        return digest.hexdigest()

    def stream(self, key: str, byte_range: str = "") -> ObjectStream | None:
        """An object as it comes, or the part of it that an HTTP Range names; None if it is not there.

        Raises RequestError if it has no such part.
        """
        part: _Part = {"Range": byte_range} if byte_range else {}
        with self._errors():
            try:
                found = self._client.get_object(Bucket=self.bucket, Key=self._prefix + key, **part)
            except s3_errors.ClientError as error:
                if code_of(error) in ABSENT:
                    return None
                if code_of(error) in {"InvalidRange", "416"}:
                    raise RequestError(f"Range {byte_range[:60]!r} found; {key} has no such part") from error
                raise
            chunks, size_bytes = self._chunks(found["Body"]), found["ContentLength"]
            return ObjectStream(chunks, size_bytes, found.get("ContentRange"), found["ContentType"], found["ETag"])

    def lines(self, key: str) -> Iterator[bytes]:
        """The lines of an object, streamed. Of a line too long for a record, its beginning.

        Raises ObjectGone: what is not there is not empty.
        """
        with self._errors():
            body = self._body(key)
        if body is None:
            raise ObjectGone(key, self.where)
        return split_lines(self._chunks(body), RECORD_BYTES)

    def _chunks(self, body: StreamingBody) -> Iterator[bytes]:
        with self._errors():
            yield from body.iter_chunks(1 << 20)

    def chunks_of(self, url: str) -> Iterator[bytes]:
        """An object of any bucket as it comes, asked for with our own credentials.

        Raises RequestError if the URL or the object is none, StoreUnavailable.
        """
        bucket, _, key = url.removeprefix("s3://").partition("/")
        if not bucket or not key:
            raise RequestError(f"{url}: s3://BUCKET/KEY wanted")
        with self._errors():
            try:
                body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
            except s3_errors.ClientError as error:
                if code_of(error) in ABSENT | {"NoSuchBucket"}:
                    raise RequestError(f"{url}: no such object at {self._endpoint_name}") from error
                raise
            yield from body.iter_chunks(1 << 16)

    @property
    def root(self) -> str:
        """URL of the folder that all keys are below, with a slash at its end."""
        return f"s3://{self.bucket}/{self._prefix}"

    def put_url(self, url: str, file: IO[bytes]) -> None:
        """Write an object of any bucket with our own credentials, over what may be there. Raises RequestError."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not bucket or not key:
            raise RequestError(f"{url[:200]!r} found; s3://BUCKET/KEY wanted")
        with self._errors():
            self._client.upload_fileobj(file, bucket, key, Config=TransferConfig(use_threads=False))

    def _body(self, key: str, client: S3Client | None = None) -> StreamingBody | None:
        try:
            return (client or self._client).get_object(Bucket=self.bucket, Key=self._prefix + key)["Body"]
        except s3_errors.ClientError as error:
            if code_of(error) in ABSENT:
                return None
            raise

    def head(self, key: str) -> StoredObject | None:
        """Size and metadata of an object, or None if it is not there."""
        with self._errors():
            try:
                found = self._client.head_object(Bucket=self.bucket, Key=self._prefix + key)
            except s3_errors.ClientError as error:
                if code_of(error) in ABSENT:
                    return None
                raise
        return StoredObject(key, found["ContentLength"], found["ETag"], found["Metadata"])

    def list(self, folder: str) -> Iterator[str]:
        """Keys below a folder (which ends in a slash), in order."""
        return (key for key, _ in self.sizes(folder))

    def list_from(self, folder: str, first: str) -> Iterator[str]:
        """Keys below a folder (which ends in a slash) that begin with `first` or come behind it, in order."""
        for page in self._pages(folder, after=self._prefix + first):
            for item in page.get("Contents", ()):
                yield item["Key"][len(self._prefix) :]

    def sizes(self, folder: str) -> Iterator[tuple[str, int]]:
        """Keys below a folder (which ends in a slash), in order, each with its size in bytes."""
        for page in self._pages(folder):
            for item in page.get("Contents", ()):
                yield item["Key"][len(self._prefix) :], item["Size"]

    def sizes_between(self, first: str, last: str, page: int) -> Iterator[tuple[str, int]]:
        """Keys of one folder from `first` to `last`, both included, in order, each with its size in bytes.

        A request asks for `page` keys: what lies before and behind costs at most one page.
        """
        pages = self._pages(f"{first.rpartition('/')[0]}/", after=self._prefix + first[:-1], size=page)
        for item in (item for found in pages for item in found.get("Contents", ())):
            key = item["Key"][len(self._prefix) :]
            if key > last:
                return
            if key >= first:
                yield key, item["Size"]

    def older(self, folder: str, before: datetime) -> Iterator[str]:
        """Keys below a folder (which ends in a slash) that were last written before this moment."""
        for page in self._pages(folder):
            for item in page.get("Contents", ()):
                if item["LastModified"] < before:
                    yield item["Key"][len(self._prefix) :]

    def abort_uploads(self, before: datetime) -> int:
        """Abort uploads in parts that began before this moment and were never completed; returns how many."""
        aborted = 0
        with self._errors():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self._prefix
            )
            for page in pages:
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < before:
                        self._client.abort_multipart_upload(
                            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        aborted += 1
        return aborted

    def folders(self, folder: str) -> Iterator[str]:
        """Names of the folders directly below a folder (which ends in a slash), in order."""
        for page in self._pages(folder, delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"][len(self._prefix + folder) :].rstrip("/")

    def _pages(
        self, folder: str, *, delimiter: str = "", after: str = "", size: int = 1000
    ) -> Iterator[ListObjectsV2OutputTypeDef]:
        with self._errors():
            yield from self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket,
                Prefix=self._prefix + folder,
                Delimiter=delimiter,
                StartAfter=after,
                PaginationConfig={"PageSize": size},
            )

    def presigned(self, key: str, life: timedelta) -> str:
        """A URL that fetches the object without credentials for so long. It is a credential: never log it."""
        with self._errors():
            return self._links.generate_presigned_url(
                "get_object",
                Params={"Bucket": self.bucket, "Key": self._prefix + key},
                ExpiresIn=int(life.total_seconds()),
            )

    @property
    def where(self) -> str:
        """Endpoint and bucket, for messages."""
        return f"{self._endpoint_name} (bucket {self.bucket})"

    @property
    def _endpoint_name(self) -> str:
        return without_credentials(self._endpoint) if self._endpoint else "AWS S3"

    def _errors(self) -> AbstractContextManager[None]:
        return translate_errors(self.where)


def sha256(body: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(body).hexdigest()
