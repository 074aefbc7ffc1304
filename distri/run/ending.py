"""How a rank ends badly: its report, what is still committed, and the outcome that its error is."""

from __future__ import annotations

import os
import threading

import structlog

from distri.ranks.device_errors import device_failure
from distri.ranks.errors import EngineError, GpuFailed, LayoutError, OutOfMemory, PeerLost
from distri.run.replica import ImageTooLarge
from distri.run.report import write_report
from distri.run.shard import PodMisconfigured
from distri.run.signals import Leads
from pipeline.errors import ClaimRefused, RecordTooNew, RecordUnreadable, ServiceError, SettingsError
from pipeline.process.redact import redacted
from pipeline.records.attempt import Code, PodReport

log = structlog.get_logger(__name__)

COMMIT_S = 15.0  # for what is rendered when ranks are missing: of what the heartbeat leaves of the timeout


def report_error(error: Exception, rank: int) -> None:
    """Write the report, unless another rank has."""
    message = redacted(f"{type(error).__name__}: {error}")
    # A rank that was killed or hangs reports nothing, so a rank that misses exactly one names it.
    missing = error.missing or () if isinstance(error, PeerLost) else ()
    lost = missing[0] if len(missing) == 1 else rank
    image = error.index if isinstance(error, ImageTooLarge) else None
    write_report(PodReport(code=code_of(error), message=message, rank=lost, image=image))


def commit_what_is_rendered(leader: Leads | None) -> None:
    """Finish the uploads, so that no image is rendered twice. In an outage torchrun's SIGTERM ends the wait."""
    if leader is None or not leader.claimed:
        return
    try:
        leader.flush()
    except Exception:
        log.exception("some images will be rendered again")  # why this rank ends is reported already


def end_from_a_thread(error: PeerLost, rank: int, leader: Leads | None) -> None:
    """Report, commit for a while, and end the process: a stream that hangs and who waits for it cannot be unwound."""
    report_error(error, rank)
    committing = threading.Thread(target=commit_what_is_rendered, args=(leader,), daemon=True)
    committing.start()
    committing.join(COMMIT_S)
    os._exit(1)


def code_of(error: Exception) -> Code:
    """The outcome of an attempt that ends with this error."""
    if isinstance(error, ClaimRefused):
        return Code.CLAIM_REFUSED
    if isinstance(error, PodMisconfigured | SettingsError | LayoutError):
        return Code.CONFIG_ERROR
    if isinstance(error, RecordTooNew):
        return Code.TOO_OLD
    if isinstance(error, ServiceError) and not isinstance(error, RecordUnreadable):
        return Code.STORAGE
    failure = error if isinstance(error, EngineError) else device_failure(error)
    if isinstance(error, ImageTooLarge) or isinstance(failure, OutOfMemory):
        return Code.OUT_OF_MEMORY
    return Code.GPU_UNHEALTHY if isinstance(failure, GpuFailed) else Code.ENGINE_ERROR
