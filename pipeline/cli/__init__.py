"""The command `tessera`: thin commands over the client, which lie in `commands`, one file a group.

Belongs here: options, printing, exit codes. Does not belong here: anything that the Python client could not do too.
"""

from pipeline.cli.entry import main

__all__ = ["main"]
