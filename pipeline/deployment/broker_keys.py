"""What Celery, its transport kombu and RedBeat keep in Redis below a deployment's prefix, as far as we have to name it.

The ledger's own keys stand in pipeline/ledger/keys.py; the rights of Redis users are made of both.
"""

from __future__ import annotations

CONTROL_QUEUE, RENDER_QUEUE = "control", "render"
FANOUT = "/fanout."  # kombu cuts a prefix off again only if it begins with a slash and ends in a dot


def queue_name(prefix: str, queue: str) -> str:
    """A queue's name, apart from those of other deployments in the same Redis."""
    return f"{prefix}.{queue}"


def broker_prefix(prefix: str) -> str:
    """What kombu puts before all that it keeps."""
    return f"{prefix}:celery:"


def queue_key(prefix: str, queue: str) -> str:
    """The list that messages of a queue wait in until a worker takes them, as kombu names it."""
    return f"{broker_prefix(prefix)}{queue_name(prefix, queue)}"


def remote_control_channel(prefix: str) -> str:
    """How probes ask workers whether they are there."""
    return f"{broker_prefix(prefix)}{FANOUT}celery.pidbox"


def beat_prefix(prefix: str) -> str:
    """What RedBeat puts before all that it keeps."""
    return f"{prefix}:redbeat:"


def beat_lock_key(prefix: str) -> str:
    """RedBeat holds it while it ticks; it ends a few ticks after beat does."""
    return f"{beat_prefix(prefix)}:lock"
