"""Files that are whole or not there at all, and that nobody but their owner reads."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

TEMPORARY = ".new-"  # how the names of unfinished files begin


def write_private(path: Path, text: str) -> None:
    """Put `text` at `path` with mode 0600; a reader sees the old content or the new, never a part."""
    temporary = unfinished(path, text)
    temporary.replace(path)


def unfinished(path: Path, text: str) -> Path:
    """A file beside `path` that holds `text`, with mode 0600, yet to be given its name by a rename or a link."""
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return temporary
