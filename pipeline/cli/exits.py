"""Exit codes, the same for every command, and the translation of errors into them.

0 all succeeded · 1 our own fault, or a service is away · 2 usage or validation · 3 partly failed · 4 none succeeded
5 timed out · 130 interrupted
"""

from __future__ import annotations

from pipeline.errors import (
    BadCheckpoint,
    DownloadIncomplete,
    PromptSetError,
    RequestError,
    SettingsError,
    TesseraError,
    WaitTimeout,
)

OK, OUR_FAULT, USAGE, PARTLY, NONE_SUCCEEDED, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


def exit_code(error: TesseraError) -> int:
    """What a command that ends with this error returns."""
    if isinstance(error, BadCheckpoint | PromptSetError | RequestError | SettingsError):
        return USAGE
    if isinstance(error, DownloadIncomplete):
        return PARTLY
    return TIMED_OUT if isinstance(error, WaitTimeout) else OUR_FAULT
