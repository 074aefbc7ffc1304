"""What a render is, and the user's side of it: requests, records, ledger, artifacts, client, command line.

Belongs here: everything that both a thin client and a worker need. Does not belong here: torch, the Kubernetes
client, Celery beyond sending a task by name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.client.client import Batch, Client
    from pipeline.promptset.row import Row

__all__ = ["Batch", "Client", "Row"]

_HOMES = {"Batch": "pipeline.client.client", "Client": "pipeline.client.client", "Row": "pipeline.promptset.row"}


def __getattr__(name: str) -> Any:
    """Import the client when somebody asks for it: a pod that only needs the records should not pay for it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
