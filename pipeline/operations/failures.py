"""Why images of a batch have failed: the failures of the bucket by code, each with an example and what to do."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.outcomes import failures
from pipeline.records.object_keys import BatchObjects
from pipeline.records.remedies import REMEDIES
from pipeline.records.results import FailureCode, ImageFailure

# Each is an object of its own while the batch runs, and a line later.
MOST_READ = 1_000


@dataclass
class FailureGroup:
    """The failures of one code.

    Attributes:
        code: of errors.jsonl.
        images: how many have it, of those that were read.
        example: one with the commonest message.
        messages: how many different ones there are.
        do: what a user can do about it.
    """

    code: FailureCode
    images: int
    example: ImageFailure
    messages: int
    do: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for scripts."""
        example = {"custom_id": self.example.custom_id, "message": self.example.message}
        return {
            "code": self.code.value,
            "images": self.images,
            "messages": self.messages,
            "example": example,
            "do": self.do,
        }


@dataclass
class _Found:
    images: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    examples: dict[str, ImageFailure] = field(default_factory=dict)


def failure_groups(artifacts: Artifacts, batch_id: str, most: int = MOST_READ) -> list[FailureGroup]:
    """The failures of a batch by code, commonest first, without those that were only cancelled.

    Of a running batch those so far. The first `most` are read; records that cannot be read are left out.
    """
    found: dict[FailureCode, _Found] = {}
    read = failures(artifacts, BatchObjects(batch_id), lambda _unreadable: None)
    wanted = (failure for failure in read if failure.code is not FailureCode.CANCELLED)
    for failure in itertools.islice(wanted, most):
        group = found.setdefault(failure.code, _Found())
        group.images += 1
        group.messages[failure.message] += 1
        group.examples.setdefault(failure.message, failure)
    groups = [
        FailureGroup(
            code=code,
            images=group.images,
            example=group.examples[group.messages.most_common(1)[0][0]],
            messages=len(group.messages),
            do=REMEDIES.get(code, "a newer version of Tessera may know this code"),
        )
        for code, group in found.items()
    ]
    return sorted(groups, key=lambda group: -group.images)
