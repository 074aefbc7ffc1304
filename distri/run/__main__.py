"""Entry point of every rank of a pod.

Exits 0 only if every image of the job has an outcome in the bucket; with 64 if it cannot read its attempt, with 78 if
the deployment is wrong: no retry mends these. 1 is everything else.
"""

from __future__ import annotations

# Before the slow imports: a rank whose torchrun is killed must not stay behind.
import os

from pipeline.process.lifeline import PARENT_PID_VARIABLE, die_with_parent

die_with_parent(int(os.environ[PARENT_PID_VARIABLE]) if PARENT_PID_VARIABLE in os.environ else None)

import secrets  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from datetime import timedelta  # noqa: E402

import structlog  # noqa: E402
import torch  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from distri.ranks.device_errors import device_failure  # noqa: E402
from distri.ranks.errors import GpuFailed, LayoutError, LeaderFailed, PeerLost  # noqa: E402
from distri.ranks.mesh import Layout, Mesh  # noqa: E402
from distri.ranks.spans import Spans  # noqa: E402
from distri.run.leader import Leader  # noqa: E402
from distri.run.nccl import set_nccl  # noqa: E402
from distri.run.report import write_report  # noqa: E402
from distri.run.shard import ImageTooLarge, LeaderRefused, PodMisconfigured, render_shard  # noqa: E402
from distri.run.sigterm import on_sigterm  # noqa: E402
from distri.run.tracing import gather_trace, note_start  # noqa: E402
from pipeline.bucket.trace import Trace, TracePhase, usage_of  # noqa: E402
from pipeline.deployment.settings import load_settings  # noqa: E402
from pipeline.errors import ClaimRefused, RecordTooNew, RecordUnreadable, ServiceError, SettingsError  # noqa: E402
from pipeline.names import ATTEMPT_VARIABLE, POD_UID_VARIABLE  # noqa: E402
from pipeline.process.logs import configure_logging  # noqa: E402
from pipeline.process.redact import redacted  # noqa: E402
from pipeline.records.attempt import EXIT_CONFIG, EXIT_USAGE, AttemptSpec, Code, PodReport  # noqa: E402
from pipeline.records.results import ImageResult  # noqa: E402
from pipeline.schema import read_record  # noqa: E402

log = structlog.get_logger("distri.run")

COMMIT_S = 15.0  # for what is rendered when ranks are missing: within what the heartbeat leaves of the timeout


def main() -> int:
    """Render the attempt that the environment names."""
    rank = int(os.environ.get("RANK", "0"))
    leader: Leader | None = None

    def stop_leader() -> None:
        if leader is not None:
            leader.stop("the pod was asked to end (SIGTERM)")

    def end_without_missing(error: PeerLost) -> None:
        log.error("rank ended: others, or its own device, do not go on", reason=str(error))
        _report_error(error, rank)
        ended = threading.Thread(target=_commit_what_is_rendered, args=(leader,), daemon=True)
        ended.start()
        ended.join(COMMIT_S)
        os._exit(1)  # neither a stream that hangs nor a thread that waits for it can be unwound

    on_sigterm(stop_leader)
    spans = Spans()
    note_start(spans)
    try:
        settings = load_settings(newer=True)
        configure_logging(settings.log_format, settings.log_level)
        spec = _read_attempt()
        disable_progress_bar()  # type: ignore[no-untyped-call]  # it writes hundreds of lines into a pod's log
        structlog.contextvars.bind_contextvars(batch=spec.batch_id, job=spec.job_index, attempt=spec.number, rank=rank)
        device = "cuda" if spec.device == "cuda" or (spec.device == "auto" and torch.cuda.is_available()) else "cpu"
        timeout = timedelta(seconds=settings.collective_timeout_s)
        set_nccl(os.environ, settings.collective_timeout_s)
        with spans.span(TracePhase.MEET):
            layout = Layout(spec.layout.data, spec.layout.cfg, spec.layout.patch)
            mesh = Mesh.join(layout, device=device, timeout=timeout, on_lost=end_without_missing)
        if mesh.is_leader:
            leader = Leader(spec, os.environ.get(POD_UID_VARIABLE) or secrets.token_hex(8), settings, spans)
        render_shard(mesh, leader, spec, settings, spans)
        trace = gather_trace(mesh, spans, spec)
        if leader is not None and trace is not None:
            leader.store_trace(trace)
        if leader is not None and leader.stopped_because is not None:
            write_report(_report(leader, leader.stop_code, leader.stopped_because, trace))
            return 1
        if leader is not None:
            write_report(_report(leader, Code.SUCCEEDED, "", trace))
        mesh.leave()
    except (LeaderRefused, LeaderFailed):
        return 1  # the leader reports
    except Exception as error:
        log.exception("rank ended")
        _report_error(error, rank)
        _commit_what_is_rendered(leader)
        if isinstance(error, UnreadableAttempt):
            return EXIT_USAGE
        return EXIT_CONFIG if _code_of(error) is Code.CONFIG_ERROR else 1
    return 0


def _report_error(error: Exception, rank: int) -> None:
    message = redacted(f"{type(error).__name__}: {error}")
    # A rank that was killed reports nothing, so a rank that misses exactly one names it.
    missing = error.missing or () if isinstance(error, PeerLost) else ()
    lost = missing[0] if len(missing) == 1 else rank
    image = error.index if isinstance(error, ImageTooLarge) else None
    write_report(PodReport(code=_code_of(error), message=message, rank=lost, image=image))


def _commit_what_is_rendered(leader: Leader | None) -> None:
    """Finish the uploads, so that no image is rendered twice. In an outage torchrun's SIGTERM ends the wait."""
    if leader is None or not leader.claimed:
        return
    try:
        leader.committer.flush()
    except Exception:
        log.exception("some images will be rendered again")  # why this rank ends is reported already


class UnreadableAttempt(PodMisconfigured):
    """The environment names no attempt that this version can read."""


def _read_attempt() -> AttemptSpec:
    text = os.environ.get(ATTEMPT_VARIABLE)
    if text is None:
        raise UnreadableAttempt(f"{ATTEMPT_VARIABLE} is not set; a worker sets it to the attempt's JSON")
    try:
        return read_record(AttemptSpec, text, what=ATTEMPT_VARIABLE)
    except RecordTooNew:
        raise
    except RecordUnreadable as error:
        raise UnreadableAttempt(
            f"{ATTEMPT_VARIABLE} cannot be read by this image ({error.found} found): is it older than the workers?"
        ) from error


def _report(leader: Leader, code: Code, message: str, trace: Trace | None) -> PodReport:
    outcomes = leader.committer.outcomes.values()
    committed = sum(isinstance(outcome, ImageResult) for outcome in outcomes)
    usage = usage_of(trace) if trace is not None else None
    return PodReport(code=code, message=message, committed=committed, failed=len(outcomes) - committed, usage=usage)


def _code_of(error: Exception) -> Code:
    if isinstance(error, ClaimRefused):
        return Code.CLAIM_REFUSED
    if isinstance(error, PodMisconfigured | SettingsError | LayoutError):
        return Code.CONFIG_ERROR
    if isinstance(error, ImageTooLarge):
        return Code.OUT_OF_MEMORY
    if isinstance(error, GpuFailed) or isinstance(device_failure(error), GpuFailed):
        return Code.GPU_UNHEALTHY
    if isinstance(error, RecordTooNew):
        return Code.TOO_OLD
    if isinstance(error, ServiceError) and not isinstance(error, RecordUnreadable):
        return Code.STORAGE
    return Code.ENGINE_ERROR


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread of gloo or NCCL that waits for a dead peer would keep the process from ending.
    os._exit(code)
