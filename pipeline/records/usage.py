"""What an attempt has used, by its pod's word: bounded, since it is added up and shown."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, StringConstraints

from pipeline.stored import Record


class Usage(Record):
    """What an attempt spent, as its leader measured it.

    `seconds` are the wall time of the leader by phase, `rank_seconds` that of all ranks together; the others are sums
    over the ranks, `peak_memory_bytes` the largest of any.
    """

    seconds: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_ ]{0,31}$")], NonNegativeFloat] = Field(
        default_factory=dict, max_length=32
    )
    rank_seconds: NonNegativeFloat = 0.0
    stalled_s: NonNegativeFloat = 0.0
    sent_bytes: int = Field(0, ge=0, lt=2**63)
    peak_memory_bytes: int = Field(0, ge=0, lt=2**63)
