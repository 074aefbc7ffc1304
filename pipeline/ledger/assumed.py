"""What the writer of a batch's record assumes of the rest of the ledger."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumed:
    """What else must be in the ledger when a batch's record is written; None and False assume nothing.

    Attributes:
        jobs: so many jobs, each with a record.
        reopened: jobs of it were opened again so often (`Batches.reopened`).
        ended: every job of it has ended.
    """

    jobs: int | None = None
    reopened: int | None = None
    ended: bool = False

    def __str__(self) -> str:
        wanted = [f"{self.jobs} jobs"] if self.jobs is not None else []
        wanted += ["none of them without an end"] if self.ended else []
        wanted += [f"{self.reopened} opened again"] if self.reopened is not None else []
        return ", ".join(wanted) or "nothing"


NOTHING = Assumed()
