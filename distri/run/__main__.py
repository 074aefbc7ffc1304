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
from datetime import timedelta  # noqa: E402

import structlog  # noqa: E402
import torch  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from distri.ranks.errors import LeaderFailed, PeerLost  # noqa: E402
from distri.ranks.mesh import Layout, Mesh  # noqa: E402
from distri.ranks.spans import Spans  # noqa: E402
from distri.run.ending import code_of, commit_what_is_rendered, end_from_a_thread, report_error  # noqa: E402
from distri.run.leader import Leader  # noqa: E402
from distri.run.nccl import set_nccl  # noqa: E402
from distri.run.report import write_report  # noqa: E402
from distri.run.shard import LeaderRefused, PodMisconfigured, render_shard  # noqa: E402
from distri.run.sigterm import on_sigterm  # noqa: E402
from distri.run.tracing import gather_trace, note_start  # noqa: E402
from pipeline.bucket.trace import Trace, TracePhase, usage_of  # noqa: E402
from pipeline.deployment.settings import load_settings  # noqa: E402
from pipeline.errors import RecordTooNew, RecordUnreadable  # noqa: E402
from pipeline.names import ATTEMPT_VARIABLE, POD_UID_VARIABLE  # noqa: E402
from pipeline.process.logs import configure_logging  # noqa: E402
from pipeline.records.attempt import EXIT_CONFIG, EXIT_USAGE, AttemptSpec, Code, PodReport  # noqa: E402
from pipeline.records.results import ImageResult  # noqa: E402
from pipeline.schema import read_record  # noqa: E402

log = structlog.get_logger("distri.run")


def main() -> int:
    """Render the attempt that the environment names."""
    rank = int(os.environ.get("RANK", "0"))
    leader: Leader | None = None

    def stop_leader() -> None:
        if leader is not None:
            leader.stop("the pod was asked to end (SIGTERM)")

    def end_at_once(error: PeerLost) -> None:
        log.error("rank ended: others, or its own device, do not go on", reason=str(error))
        end_from_a_thread(error, rank, leader)

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
            mesh = Mesh.join(layout, device=device, timeout=timeout, on_lost=end_at_once)
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
        report_error(error, rank)
        commit_what_is_rendered(leader)
        if isinstance(error, UnreadableAttempt):
            return EXIT_USAGE
        return EXIT_CONFIG if code_of(error) is Code.CONFIG_ERROR else 1
    return 0


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


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread of gloo or NCCL that waits for a dead peer would keep the process from ending.
    os._exit(code)
