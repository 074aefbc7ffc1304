"""What a shell completes: ids of batches, and the values of options. A deployment that is away completes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipeline.client.connect import connect
from pipeline.errors import TesseraError
from pipeline.operations.batch_ids import LAST, ids_beginning
from pipeline.promptset import samplers


def batch_ids(incomplete: str) -> list[str]:
    """Ids of the newest batches that begin so, and `last`."""
    try:
        found = ids_beginning(connect().ledger, incomplete)
    except TesseraError:
        found = []
    return [*([LAST] if LAST.startswith(incomplete) else []), *found]


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion by fixed names, whatever their case."""
    known = list(names)
    return lambda incomplete: [name for name in known if name.lower().startswith(incomplete.lower())]


schedulers = one_of(samplers.known_names())


def models(incomplete: str) -> list[str]:
    """Ids of the deployment's models that begin so."""
    return _announced(lambda deployment: deployment.models, incomplete)


def loras(incomplete: str) -> list[str]:
    """Ids of the deployment's LoRAs that begin so."""
    return _announced(lambda deployment: deployment.loras, incomplete)


def _announced(names: Callable[..., Iterable[str]], incomplete: str) -> list[str]:
    try:
        return [name for name in names(connect().ledger.deployment()) if name.startswith(incomplete)]
    except TesseraError:
        return []
