"""How displaced evaluations are computed: what decides how near their pictures are to those of one rank."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

MOST_WORK = 1.04  # as distri.ranks.patches has it, which stands alone; a test holds them together


class NormMode(StrEnum):
    """Where GroupNorm's statistics come from in a displaced evaluation."""

    CORRECTED = "corrected"  # stale ones of the whole image, moved by the rank's own drift
    STALE = "stale"  # the rank's own fresh, the others' stale
    SYNCHRONOUS = "synchronous"  # gathered fresh, which waits
    LOCAL = "local"  # the rank's own alone


class Displacement(BaseModel):
    """Of a deployment, as its attempts record it and its results say it. Nothing of it counts in exact mode."""

    # extra="allow": what a newer version says in it stays, and so does the digest of an attempt.
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

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


AS_ENGINE = Displacement()
