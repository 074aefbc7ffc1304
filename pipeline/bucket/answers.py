"""What an answer of S3 must have to be one.

A proxy, or whatever else answers where the store should, says 200 as well: an empty answer to a list would be an empty
folder, and one to a PUT a picture that is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.hooks import BaseEventHooks

_WANTED: Mapping[str, tuple[str, ...]] = {
    "PutObject": ("ETag",),
    "CreateMultipartUpload": ("UploadId",),
    "UploadPart": ("ETag",),
    "CompleteMultipartUpload": ("ETag",),
    "GetObject": ("ETag",),
    "HeadObject": ("ETag", "ContentLength"),
}


def check_answers(events: BaseEventHooks) -> None:
    """Have every answer of a client looked at: a KeyError names what it lacks."""
    events.register("after-call.s3", _check)


def _check(http_response: Any, parsed: Mapping[str, Any], model: Any, **_: object) -> None:
    if not 200 <= http_response.status_code < 300:
        return  # an error, which botocore raises
    for name in _WANTED.get(model.name, ()):
        parsed[name]
    if model.name == "ListObjectsV2":
        _check_list(parsed)


def _check_list(parsed: Mapping[str, Any]) -> None:
    if "KeyCount" not in parsed:
        parsed["Name"]
    if parsed.get("IsTruncated"):
        parsed["NextContinuationToken"]  # without it the rest would be left out
    for item in parsed.get("Contents", ()):
        for name in ("Key", "Size", "LastModified"):
            item[name]
    for item in parsed.get("CommonPrefixes", ()):
        item["Prefix"]
