"""The end of a log, for a message about whoever wrote it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.process.redact import redacted

_ROOM_BYTES = 1 << 16  # what a line needs, and a file system that has less keeps for itself


def log_tail(path: Path, lines: int = 12, since: int = 0) -> str:
    """The last lines of a log, credentials taken out; only what comes after byte `since`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since, size - 400 * lines))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    if not text and shutil.disk_usage(path.parent).free < _ROOM_BYTES:
        return f"(empty log: no space is left at {path.parent})"
    return redacted("\n".join(text.splitlines()[-lines:])) or "(empty log)"
