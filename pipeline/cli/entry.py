"""Where the program begins and ends; it imports nothing slow, so that Ctrl-C is heeded from the first moment."""

from __future__ import annotations

import io
import os
import sys

_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit with its code. Ctrl-C ends it at once, with a word, also while it is being imported."""
    for stream in (sys.stdout, sys.stderr):  # a locale that lacks a letter shows its number, and the command goes on
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from pipeline.cli.main import main as run

        run(argv)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
    except RuntimeError as error:
        # What Python 3.11 makes of Ctrl-C while a class is being made, which imports do.
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        sys.stderr.write("interrupted\n")
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
    # Not sys.exit: who pressed Ctrl-C waits neither for threads that ask a server nor for the modules to be freed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_INTERRUPTED)
