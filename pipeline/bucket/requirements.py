"""What Tessera needs of a store, tried out on the store itself with a few small objects.

Stores that speak S3 differ in four things that matter here: whether the condition of a PUT is obeyed, whether what was
written is read and listed at once, whether DeleteObjects takes the checksum that boto3 sends since 1.36 (it sends no
Content-MD5 any more), and whether their clock is near ours, without which no signature holds.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import botocore.exceptions as s3_errors

from pipeline.bucket.s3 import ABSENT, MOST_SKEW_S, PRECONDITION_FAILED, code_of, skew_s

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

# A skew that harms nothing yet; clocks that are kept by NTP differ by less than a second.
NOTABLE_SKEW_S = 30.0
_ROUNDS = 3
CLOCK = "clock against S3"

# Bad request (a header is missing), method not allowed, length required, not implemented.
_CANNOT = (400, 405, 411, 501)


@dataclass(frozen=True)
class Requirement:
    """One of them: what was found, what was wanted, and what to do where they differ.

    Attributes:
        fatal: without it nothing can be done, or pictures would be committed twice.
        met: whether this store has it.
    """

    name: str
    found: str
    wanted: str
    do: str
    met: bool
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.found} found, {self.wanted} wanted; {self.do}"


def requirements(client: S3Client, bucket: str, folder: str) -> Iterator[Requirement]:
    """Try each. Objects are made below `folder` and removed. Raises botocore's errors if the store is away."""
    stem = f"{folder}{secrets.token_hex(8)}"
    yield clock(client, bucket)
    yield conditional_put(client, bucket, f"{stem}-new")
    yield conditional_put(client, bucket, f"{stem}-over", over=True)
    yield from _consistency(client, bucket, f"{stem}-reads")
    yield _delete_objects(client, bucket, f"{stem}-delete")


def clock(client: S3Client, bucket: str) -> Requirement:
    """How far this machine's clock is from the store's, by the Date of an answer or of a refusal."""
    try:
        answer: object = client.head_bucket(Bucket=bucket)
    except s3_errors.ClientError as error:
        answer = error.response
    skew = skew_s(answer)
    off = abs(skew or 0.0)
    return Requirement(
        CLOCK,
        "no Date in its answers" if skew is None else f"ours is {skew:+.0f} s from its",
        f"within {NOTABLE_SKEW_S:.0f} s; from {MOST_SKEW_S / 60:.0f} minutes on it refuses what we sign",
        "set the clock of this machine (NTP), or of the store",
        met=off < NOTABLE_SKEW_S,
        fatal=off >= MOST_SKEW_S,
    )


def conditional_put(client: S3Client, bucket: str, key: str, *, over: bool = False) -> Requirement:
    """Whether a PUT with If-None-Match: * leaves what is there, or (`over`) one with If-Match what is another."""
    client.put_object(Bucket=bucket, Key=key, Body=b"1", IfNoneMatch="*")
    found = "overwrote an object although it was not to"
    try:
        if over:
            client.put_object(Bucket=bucket, Key=key, Body=b"2", IfMatch='"0123456789abcdef0123456789abcdef"')
        else:
            client.put_object(Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*")
    except s3_errors.ClientError as error:
        found = "obeyed" if code_of(error) in PRECONDITION_FAILED else f"{code_of(error)} in answer"
    finally:
        client.delete_object(Bucket=bucket, Key=key)
    return Requirement(
        f"S3 conditional PUT, {'If-Match' if over else 'If-None-Match: *'}",
        found,
        "obeyed",
        "upgrade the store or choose another, or two pods of one image would overwrite each other's work",
        met=found == "obeyed",
        fatal=True,
    )


def refuses_delete_objects(cause: BaseException | None) -> bool:
    """Whether an error says that the store cannot do this, and not that we may not."""
    if not isinstance(cause, s3_errors.ClientError):
        return False
    status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in _CANNOT or code_of(cause) in ("MissingContentMD5", "NotImplemented")


def _consistency(client: S3Client, bucket: str, key: str) -> Iterator[Requirement]:
    """Whether what was put, put over and deleted is read, and listed, at once."""
    late_reads, late_lists = [], []
    for number in range(_ROUNDS):
        body = str(number).encode()
        client.put_object(Bucket=bucket, Key=key, Body=body)
        if _body(client, bucket, key) != body:
            late_reads.append("an object that was put")
        if not _listed(client, bucket, key):
            late_lists.append("an object that was put")
    client.delete_object(Bucket=bucket, Key=key)
    if _body(client, bucket, key) is not None:
        late_reads.append("an object that was deleted")
    if _listed(client, bucket, key):
        late_lists.append("an object that was deleted")
    do = "switch off caches before the store, and read from where is written; images are asked for one by one meanwhile"
    for name, late in (("S3 reads after writes", late_reads), ("S3 lists after writes", late_lists)):
        found = f"late for {' and '.join(sorted(set(late)))}" if late else "at once"
        yield Requirement(name, found, "at once", do, met=not late)


def _body(client: S3Client, bucket: str, key: str) -> bytes | None:
    try:
        return client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except s3_errors.ClientError as error:
        if code_of(error) not in ABSENT:
            raise
        return None


def _listed(client: S3Client, bucket: str, key: str) -> bool:
    page = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=2)
    return any(item["Key"] == key for item in page.get("Contents", ()))


def _delete_objects(client: S3Client, bucket: str, stem: str) -> Requirement:
    keys = [f"{stem}-{number}" for number in (1, 2)]
    found = "taken"
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"1")
    try:
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
        if errors := answer.get("Errors"):
            found = f"{errors[0].get('Code')} for an object"
    except s3_errors.ClientError as error:
        found = f"{code_of(error)} in answer"
    finally:
        for key in keys:
            client.delete_object(Bucket=bucket, Key=key)
    return Requirement(
        "S3 DeleteObjects",
        found,
        "taken, with a CRC checksum and no Content-MD5",
        "upgrade the store, or let its users delete; until then objects are deleted one by one, which takes longer",
        met=found == "taken",
    )
