"""What a shell completes: ids of batches, and the values of options. A deployment that is away completes nothing.

Whatever asks one is imported when it is asked: every command has completions, and most runs complete nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from pipeline.errors import TesseraError
from pipeline.names import LAST
from pipeline.promptset.names import samplers


def batch_ids(incomplete: str) -> list[str]:
    """Ids of the newest batches that begin so, and `last`."""
    from pipeline.client.connect import connect
    from pipeline.operations.batch_ids import ids_beginning

    try:
        found = ids_beginning(connect(os.environ).ledger, incomplete)
    except TesseraError:
        found = []
    return [*([LAST] if LAST.startswith(incomplete) else []), *found]


def job_refs(incomplete: str) -> list[str]:
    """Batches that begin so, each with its first job."""
    return [f"{batch_id}/0" for batch_id in batch_ids(incomplete)]


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion by fixed names."""
    known = list(names)
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


def schedulers(incomplete: str) -> list[str]:
    """Samplers, whatever the case, as they are known with or without blanks: shells break a completion at one.

    What was typed stays as it is: Typer leaves out what does not begin so.
    """
    known = [name.replace(" ", "_") for name in samplers.known_names()]
    typed = incomplete.replace(" ", "_").lower()
    return [incomplete + name[len(typed) :] for name in known if name.lower().startswith(typed)]


def failure_codes(incomplete: str) -> list[str]:
    """Codes of failures, such as `E_OOM`."""
    from pipeline.records.results import FailureCode

    return one_of(FailureCode)(incomplete)


def models(incomplete: str) -> list[str]:
    """Ids of the deployment's models that begin so."""
    return _announced(lambda deployment: deployment.models, incomplete)


def loras(incomplete: str) -> list[str]:
    """Ids of the deployment's LoRAs that begin so."""
    return _announced(lambda deployment: deployment.loras, incomplete)


def _announced(names: Callable[..., Iterable[str]], incomplete: str) -> list[str]:
    from pipeline.client.connect import connect

    try:
        return [name for name in names(connect(os.environ).ledger.deployment()) if name.startswith(incomplete)]
    except TesseraError:
        return []
