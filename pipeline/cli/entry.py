"""Where the program begins and ends; it imports nothing slow, so that Ctrl-C is heeded from the first moment."""

from __future__ import annotations

import os
import sys

_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit with its code. Ctrl-C ends it at once, with a word, also while it is being imported."""
    try:
        from pipeline.cli.main import main as run

        run(argv)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
    # Not sys.exit: who pressed Ctrl-C waits neither for threads that ask a server nor for the modules to be freed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_INTERRUPTED)
