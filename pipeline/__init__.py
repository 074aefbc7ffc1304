"""What a render is, and the user's side of it: requests, records, ledger, artifacts, client, command line.

Belongs here: everything that both a thin client and a worker need. Does not belong here: torch, the Kubernetes
client, Celery beyond sending a task by name.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.client import Batch, Client
    from pipeline.request import Row

__all__ = ["Batch", "Client", "Row"]


def __getattr__(name: str) -> Any:
    """Import the client when somebody asks for it: a pod that only needs the records should not pay for it."""
    if name in __all__:
        from pipeline import client, request

        return getattr(request if name == "Row" else client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
