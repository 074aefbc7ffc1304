"""Which state of a ledger it is, as the ledger and `ledger.json` in the bucket hold it.

The controller counts on in Redis first, and writes that to the bucket then. So a ledger that stands behind the bucket,
or has another token, is not the one that was there: Redis was emptied, or came back from an older state.
"""

from __future__ import annotations

from pydantic import Field

from pipeline.schema import Versioned

LEDGER_KEY = "ledger.json"  # in the bucket, below the deployment's prefix

SCHEMA_VERSION = 1


class Generation(Versioned):
    """A state of a ledger."""

    schema_version: int = SCHEMA_VERSION
    token: str = Field(description="Random; a new one whenever the ledger was in doubt.")
    sequence: int = Field(ge=0, description="Grows as long as the token stands, and further with the next.")
