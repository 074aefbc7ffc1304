"""An error over one batch or schedule leaves the others, and the deployment, alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from pipeline.errors import LedgerUnavailable, RecordUnreadable, TesseraError
from tasks.process.context import Context

log = structlog.get_logger(__name__)


@contextmanager
def go_on(context: Context, failure: str, **of: str) -> Iterator[None]:
    """What raises inside is logged as this failure of one of many, our own program's errors too; an outage raises."""
    try:
        yield
    except LedgerUnavailable:
        raise
    except TesseraError as error:
        if not isinstance(error, RecordUnreadable):
            context.artifacts.check()  # if S3 is away, it is away for all of them
        log.error(failure, reason=str(error), **of)
    except Exception:  # our own program failed over one of them: the others go on
        log.exception(failure, **of)
