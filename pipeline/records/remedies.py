"""What a user can do about each code of errors.jsonl, in a few words; docs/client.md has the same."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pipeline.records.results import FailureCode

REMEDIES: Mapping[FailureCode, str] = MappingProxyType(
    {
        FailureCode.INVALID: "correct the row",
        FailureCode.PROMPT_TOO_LONG: "shorten the prompt, or `--long-prompt chunk`",
        FailureCode.UNSUPPORTED: "change the row",
        FailureCode.INPUT_LOST: "put the object back that the message names, then `tessera retry`",
        FailureCode.BLACK: "another seed, or another number format",
        FailureCode.ATTEMPTS_EXHAUSTED: "the message and the pod's log say why; then `tessera retry`",
        FailureCode.OOM: "a smaller size, more patch ranks, or `tessera retry` on other hardware",
        FailureCode.POISON: (
            "read both ends in the message; correct the row or the model, or `tessera retry` on other hardware"
        ),
        FailureCode.INTERNAL: "the workers' logs say where; report it, then `tessera retry`",
        FailureCode.LOST: "find out what deletes objects there (a lifecycle rule?), then `tessera retry`",
        FailureCode.UNREADABLE: "upgrade what runs here, then `tessera retry`: it is counted, not rendered",
        FailureCode.CANCELLED: "`tessera retry`, if it is wanted after all",
    }
)
