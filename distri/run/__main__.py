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
from pathlib import Path  # noqa: E402

import structlog  # noqa: E402
import torch  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from distri.ranks.errors import LeaderFailed, PeerLost  # noqa: E402
from distri.ranks.mesh import Layout, Mesh  # noqa: E402
from distri.ranks.spans import Spans  # noqa: E402
from distri.run.ending import code_of, commit_what_is_rendered, end_from_a_thread, report_error  # noqa: E402
from distri.run.loaded import LoadedEngine  # noqa: E402
from distri.run.nccl import set_nccl  # noqa: E402
from distri.run.next_attempt import NextAttempt  # noqa: E402
from distri.run.report import write_report  # noqa: E402
from distri.run.shard import LeaderRefused, PodMisconfigured, render_shard  # noqa: E402
from distri.run.signals import Leads  # noqa: E402
from distri.run.sigterm import on_sigterm  # noqa: E402
from distri.run.tracing import gather_trace, memory_bytes, note_start  # noqa: E402
from pipeline.bucket.trace import Trace, TracePhase, usage_of  # noqa: E402
from pipeline.deployment.settings import Settings, StandaloneSettings, load_part, load_settings  # noqa: E402
from pipeline.errors import RecordTooNew, RecordUnreadable  # noqa: E402
from pipeline.names import ATTEMPT_VARIABLE, POD_UID_VARIABLE, STANDALONE_VARIABLE  # noqa: E402
from pipeline.process.logs import configure_logging  # noqa: E402
from pipeline.records.attempt import EXIT_CONFIG, EXIT_USAGE, AttemptSpec, Code, PodReport  # noqa: E402
from pipeline.records.results import ImageResult  # noqa: E402
from pipeline.schema import read_record  # noqa: E402

log = structlog.get_logger("distri.run")


class _Rank:
    """This process: what it keeps from one attempt to the next, and the attempt that it has."""

    def __init__(self) -> None:
        self.number = int(os.environ.get("RANK", "0"))
        self.loaded, self.spans = LoadedEngine(), Spans()
        self.asked_to_end = False
        self._mesh: Mesh | None = None
        self._leader: Leads | None = None

    def ask_to_end(self) -> None:
        """SIGTERM came: end after what is being rendered."""
        self.asked_to_end = True
        if self._leader is not None:
            self._leader.stop("the pod was asked to end (SIGTERM)")

    def attempt(self) -> int:
        """Render the attempt that the environment names. Raises Exception, and then this process is of no more use."""
        settings = _settings()
        configure_logging(settings.log_format, settings.log_level)
        spec = _read_attempt()
        disable_progress_bar()  # type: ignore[no-untyped-call]  # it writes hundreds of lines into a pod's log
        structlog.contextvars.clear_contextvars()
        about = {"batch": spec.batch_id, "job": spec.job_index, "attempt": spec.number}
        structlog.contextvars.bind_contextvars(**about, rank=self.number)
        mesh = self._joined(spec, settings)
        uid = os.environ.get(POD_UID_VARIABLE) or secrets.token_hex(8)
        leader = self._leader = _leader(spec, uid, settings, self.spans) if mesh.is_leader else None
        if self.asked_to_end:
            self.ask_to_end()
        render_shard(mesh, leader, spec, settings, self.spans, loaded=self.loaded)
        trace = gather_trace(mesh, self.spans, spec)
        if leader is None:
            return 0
        leader.end()
        if trace is not None:
            leader.store_trace(trace)
        if leader.stopped_because is not None:
            write_report(_report(leader, leader.stop_code, leader.stopped_because, trace))
            return 1
        write_report(_report(leader, Code.SUCCEEDED, "", trace))
        return 0

    def _joined(self, spec: AttemptSpec, settings: StandaloneSettings) -> Mesh:
        """The ranks, which meet once; whoever gives them another attempt gives one of the same layout."""
        if self._mesh is not None:
            self._mesh.traffic.sent_bytes = 0
            self._mesh.progress.forget_stalls()
            return self._mesh
        device = "cuda" if spec.device == "cuda" or (spec.device == "auto" and torch.cuda.is_available()) else "cpu"
        timeout = timedelta(seconds=settings.collective_timeout_s)
        set_nccl(os.environ, settings.collective_timeout_s)
        with self.spans.span(TracePhase.MEET):
            layout = Layout(spec.layout.data, spec.layout.cfg, spec.layout.patch)
            self._mesh = Mesh.join(layout, device=device, timeout=timeout, on_lost=self._end_at_once)
        return self._mesh

    def _end_at_once(self, error: PeerLost) -> None:
        log.error("rank ended: others, or its own device, do not go on", reason=str(error))
        end_from_a_thread(error, self.number, self._leader)

    def next_attempt(self, waiting: NextAttempt, code: int) -> bool:
        """Wait for another attempt, ready for it; False if there will be none."""
        self._leader = None
        self.spans.clear()
        memory = memory_bytes(self._mesh.device) if self._mesh is not None else 0
        return waiting.wait(code, model=self.loaded.model, memory_bytes=memory, give_up=lambda: self.asked_to_end)

    def leave(self) -> None:
        """Part from the other ranks."""
        if self._mesh is not None:
            self._mesh.leave()

    def end_badly(self, error: Exception) -> int:
        """Report, save what is rendered; returns the exit code."""
        report_error(error, self.number)
        commit_what_is_rendered(self._leader)
        if isinstance(error, UnreadableAttempt):
            return EXIT_USAGE
        return EXIT_CONFIG if code_of(error) is Code.CONFIG_ERROR else 1


def main() -> int:
    """Render the attempt that the environment names, and those that follow where an engine waits for more."""
    rank = _Rank()
    on_sigterm(rank.ask_to_end)
    note_start(rank.spans)
    waiting = NextAttempt.of(os.environ, rank.number)
    try:
        code = rank.attempt()
        while waiting is not None and not rank.asked_to_end and rank.next_attempt(waiting, code):
            code = rank.attempt()
        if code == 0:
            rank.leave()
    except (LeaderRefused, LeaderFailed):
        return 1  # the leader reports
    except Exception as error:
        log.exception("rank ended")
        return rank.end_badly(error)
    return code


def _settings() -> StandaloneSettings:
    if STANDALONE_VARIABLE in os.environ:
        return load_part(StandaloneSettings, newer=True)
    return load_settings(newer=True)


def _leader(spec: AttemptSpec, uid: str, settings: StandaloneSettings, spans: Spans) -> Leads:
    """What leads, imported here: the clients of Redis and S3 take half a second that one picture has no use for."""
    if isinstance(settings, Settings):
        from distri.run.leader import Leader

        return Leader(spec, uid, settings, spans)
    from distri.run.standalone import StandaloneLeader
    from pipeline.records.standalone import PictureFolder

    return StandaloneLeader(spec, PictureFolder(Path.cwd()))


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


def _report(leader: Leads, code: Code, message: str, trace: Trace | None) -> PodReport:
    outcomes = leader.outcomes.values()
    committed = sum(isinstance(outcome, ImageResult) for outcome in outcomes)
    usage = usage_of(trace) if trace is not None else None
    return PodReport(code=code, message=message, committed=committed, failed=len(outcomes) - committed, usage=usage)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread of gloo or NCCL that waits for a dead peer would keep the process from ending.
    os._exit(code)
