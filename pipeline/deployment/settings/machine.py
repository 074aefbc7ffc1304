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
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: readable in a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line shown.")
