"""What is so on one machine: where the embedded stack keeps its data, and how its programs log."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.deployment.settings.variables import HomePath, SettingsPart


class MachineSettings(SettingsPart):
    """Data folder and logs."""

    data_dir: HomePath = Field(
        Path("~/.tessera"), description="Folder of the embedded stack: all its data, logs, state."
    )
    warm_s: float = Field(
        300,
        ge=0,
        allow_inf_nan=False,
        description="How long an engine of one machine that has nothing to do keeps its model for the next job; 0: "
        "every job loads its own.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: readable in a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line shown.")
