"""How displaced evaluations are computed: what decides how near their pictures are to those of one rank."""

from __future__ import annotations

from enum import StrEnum

from pydantic import ConfigDict, Field

from pipeline.picture import NormMode, Picture
from pipeline.stored import Record

MOST_WORK = 1.04  # as distri.ranks.patches has it, which stands alone; a test holds them together


class Exchange(StrEnum):
    """How evaluations after the warm-up see the other ranks' activations, where not all of them are exact."""

    DISPLACED = "displaced"  # as they were in the evaluation before: nothing waits
    RESIDUAL = "residual"  # as they are: layers wait, keys and values cross as what is new, in few bits


class Displacement(Record):
    """Of a deployment, as its attempts record it and its results say it. Nothing of it counts in exact mode."""

    # extra="allow": what a newer version says in it stays, and so does the digest of an attempt.
    model_config = ConfigDict(extra="allow")

    resync: float | None = Field(
        None,
        gt=0,
        exclude_if=lambda value: value is None,
        description="Drift of the noise prediction above which one more evaluation is synchronous; None: never.",
    )
    norm_mode: NormMode = Field(NormMode.CORRECTED, exclude_if=lambda value: value is NormMode.CORRECTED)
    most_work: float = Field(
        MOST_WORK,
        ge=1,
        allow_inf_nan=False,
        exclude_if=lambda value: value == MOST_WORK,
        description="Of a rank, times the mean, above which it hands tokens on.",
    )
    settling_steps: int = Field(
        0,
        ge=0,
        exclude_if=lambda value: not value,
        description="Evaluations at the beginning of a pass of which keys and values alone are displaced.",
    )
    exchange: Exchange = Field(Exchange.DISPLACED, exclude_if=lambda value: value is Exchange.DISPLACED)

    def of(self, picture: Picture) -> Displacement:
        """As this one, but for what the picture's row says otherwise."""
        said = {name: getattr(picture, name) for name in OF_ROWS}
        return self.model_copy(update={name: value for name, value in said.items() if value is not None})


OF_ROWS = tuple(name for name in Displacement.model_fields if name in Picture.model_fields)  # what rows may say

UNSAID = Displacement()  # of attempts and results that say nothing of it, as those of the first versions
