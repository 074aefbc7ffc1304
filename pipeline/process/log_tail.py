"""The end of a log, for a message about whoever wrote it."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.process.redact import redacted


def log_tail(path: Path, lines: int = 12, since: int = 0) -> str:
    """The last lines of a log, credentials taken out; only what comes after byte `since`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since, size - 400 * lines))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return redacted("\n".join(text.splitlines()[-lines:])) or "(empty log)"
