"""Notice that Redis was emptied, restored from an older state, or restarted: compare generations with the bucket.

The bucket's record never runs ahead of the ledger's, because Redis is written first. It is read first here, for the
same reason: what another controller writes meanwhile must not look like a rollback.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

import structlog

from pipeline.deployment.broker import VERIFY_LEDGER, send_hint
from pipeline.errors import RecordTooNew, RecordUnreadable, StoreUnavailable
from pipeline.ledger.generations import Standing
from pipeline.records.generation import LEDGER_KEY, Generation
from pipeline.schema import read_record
from tasks.process.context import Context

log = structlog.get_logger(__name__)

BUCKET_EVERY_S = 10.0


def check_ledger(context: Context) -> bool:
    """Whether the ledger may be acted upon; if not, it is asked for to be verified. Raises LedgerUnavailable.

    Which server answers is asked for over a new connection and every few seconds; the bucket every BUCKET_EVERY_S, and
    it costs one small object. While S3 is away, the server alone speaks.
    """
    generations = context.ledger.generations
    standing = None if context.ledger.locks.due("generation", BUCKET_EVERY_S) else generations.read()
    if standing is None:
        try:
            _compare(context)
        except RecordUnreadable as error:  # too new
            log.warning("the ledger is not compared with the bucket", reason=str(error))
        except StoreUnavailable as error:
            log.warning("the ledger is compared with the bucket later", reason=str(error))
        in_doubt = generations.is_in_doubt()
    else:
        why = doubt(standing, None, generations.known_server())
        if why is not None:
            _doubt(context, standing, standing.generation.sequence, why)
        in_doubt = why is not None or bool(standing.doubt)
    if in_doubt:
        send_hint(context.app, VERIFY_LEDGER)
    return not in_doubt


def doubt(standing: Standing | None, stored: Generation | None, server: str) -> str | None:
    """Why a ledger has to be compared with the bucket; None if nothing speaks against it.

    Args:
        standing: what the ledger says, None if it has no generation.
        stored: what the bucket says, None if it has no record or was not asked.
        server: which Redis answers now.
    """
    if standing is None:
        return None if stored is None else "Redis has nothing of what it had: it was emptied, or is another one"
    if stored is not None and stored.token != standing.generation.token:
        return (
            "Redis has another ledger than the bucket knows: it was restored from an older state, or another release "
            "writes below the same TESSERA_S3_PREFIX"
        )
    if stored is not None and stored.sequence > standing.generation.sequence:
        behind = stored.sequence - standing.generation.sequence
        return f"Redis was restored from an older state: it is {behind} ticks of the controller behind the bucket"
    if not standing.doubt and standing.server != server:
        return "Redis was restarted or failed over, and may have lost its last moments"
    return None


def _compare(context: Context) -> None:
    generations, artifacts = context.ledger.generations, context.artifacts
    there = artifacts.get_tagged(LEDGER_KEY)
    standing, server = generations.read(), generations.server()
    try:
        stored = read_record(Generation, there.body, what=LEDGER_KEY) if there is not None else None
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        log.error("ledger.json is written again", reason=str(error))
        stored = None
    last = max(
        0 if stored is None else stored.sequence,
        0 if standing is None else standing.generation.sequence,
    )
    if (why := doubt(standing, stored, server)) is not None:
        after = _doubt(context, standing, last, why)
    elif standing is None:
        first = Standing(Generation(token=secrets.token_hex(8), sequence=last + 1), server)
        after = first if generations.write(None, first) else None
    else:
        counted = standing.generation.model_copy(update={"sequence": last + 1})
        moved = replace(standing, generation=counted)
        after = moved if generations.write(standing, moved) else None
    if after is None:
        return  # another controller was first
    body = after.generation.model_dump_json().encode()
    if not artifacts.put_new(
        LEDGER_KEY, body, content_type="application/json", over=there.etag if there is not None else None
    ):
        log.info("another controller wrote ledger.json first")


def _doubt(context: Context, standing: Standing | None, last: int, why: str) -> Standing | None:
    """Put the ledger in doubt: under a new token, so that whoever verified it before has not verified this one."""
    token = secrets.token_hex(8)
    after = Standing(Generation(token=token, sequence=last + 1), server="", doubt=why)
    if not context.ledger.generations.write(standing, after):
        return None
    log.warning("the ledger may have been rolled back; it is compared with the bucket", reason=why)
    context.metrics.count_doubt()
    return after


def confirm(context: Context, token: str, server: str) -> bool:
    """Believe the ledger of this token again, as it was verified on this server; False if it is another by now."""
    generations = context.ledger.generations
    while True:
        standing = generations.read()
        if standing is None or standing.generation.token != token or generations.server() != server:
            log.info("the ledger is in doubt again")
            return False
        counted = standing.generation.model_copy(update={"sequence": standing.generation.sequence + 1})
        if generations.write(standing, Standing(counted, server)):
            return True
