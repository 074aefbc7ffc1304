"""The ledger: the records in Redis that are the truth about status.

Belongs here: keys, the atomic steps (Lua, one file each), and their typed callers. Does not belong here: what to do
next (tasks), what is in S3 (pipeline.bucket.artifacts; from it the ledger can be rebuilt).
"""

from pipeline.ledger.server.connection import Ledger

__all__ = ["Ledger"]
