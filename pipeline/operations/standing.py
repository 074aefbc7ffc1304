"""Whether the ledger decides anything now, in one line for people."""

from __future__ import annotations

import structlog

from pipeline.errors import TesseraError
from pipeline.ledger import Ledger

log = structlog.get_logger(__name__)


def doubt(ledger: Ledger) -> str | None:
    """Why the ledger is being compared with the bucket, and since when; None if it is in order.

    Until that is done nothing is expanded, ended, purged or fired. Raises LedgerUnavailable.
    """
    if not ledger.generations.is_in_doubt(new=False):
        return None
    standing = ledger.generations.read()
    why = (standing.doubt if standing is not None else "") or "Redis was restarted or failed over"
    since = f" since {standing.since:%Y-%m-%d %H:%M:%S} UTC" if standing is not None and standing.since else ""
    return f"is compared with the bucket{since}: {why}"


def doubt_if_known(ledger: Ledger) -> str | None:
    """As `doubt`, for those who ask for something else: None if this user may not ask."""
    try:
        return doubt(ledger)
    except TesseraError as error:
        log.debug("whether the ledger is in order is not known", reason=str(error))
        return None
