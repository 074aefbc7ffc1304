"""What every rank of one attempt did and when, as its pod stores it; summed up, and in Chrome's trace format."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import Field

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch
from pipeline.errors import RecordForeign, RequestError
from pipeline.names import Id, parsed_job_ref
from pipeline.records.object_keys import BatchObjects
from pipeline.records.usage import Usage
from pipeline.schema import Versioned
from pipeline.stored import AnyJson, Record

SCHEMA_VERSION = 1

RANK_TRACK = "rank"
REPLAY_TRACK = "replay"  # a span for each evaluation that was recorded, or could not be


class TracePhase(StrEnum):
    """What a rank does one after the other, in the order in which a job goes through it; others follow by name.

    The engine names its own five (`distri.ranks.spans.RenderSpan`), since it stands alone.
    """

    LAUNCH = "launch"
    START = "start"
    MEET = "meet"
    CLAIM = "claim"
    LOAD = "load"
    ASK = "ask"
    ENCODE = "encode"
    BEGIN = "begin"
    DENOISE = "denoise"
    ENLARGE = "enlarge"
    DECODE = "decode"
    HAND_OVER = "hand over"
    FINISH = "finish"


# Rendering; the rest of a rank's time is start-up or waiting.
WORK = frozenset({TracePhase.ENCODE, TracePhase.BEGIN, TracePhase.DENOISE, TracePhase.ENLARGE, TracePhase.DECODE})


class SpanRecord(Record):
    """A piece of work on one track; `start_ns` and `end_ns` are of the machine's monotonic clock."""

    name: str
    track: str = RANK_TRACK
    start_ns: int
    end_ns: int
    detail: dict[str, AnyJson] = Field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class RankTrace(Record):
    """One rank."""

    rank: int
    device: str
    spans: tuple[SpanRecord, ...]
    forgotten: int = Field(0, description="Spans that did not fit into the record.")
    sent_bytes: int = Field(0, description="To other ranks.")
    stalled_s: float = Field(0.0, description="Exposed communication: computing stood still for messages.")
    peak_memory_bytes: int = Field(0, description="Of the GPU's allocator; without a GPU, of the process.")


class Trace(Versioned):
    """One attempt of a job."""

    schema_version: int = SCHEMA_VERSION
    batch_id: Id
    job_index: int = Field(ge=0)
    attempt: int = Field(ge=0)
    ranks: tuple[RankTrace, ...]


class RankSummary(Record):
    """Where one rank's time went, in seconds of wall time.

    Attributes:
        busy: share of the time between the first and the last span that was spent on rendering without waiting for
            messages.
        recorded: kinds of evaluations that are replayed, each of a shape and a phase.
        refused: kinds that were to be and are not; the spans say why.
        record_s: spent on recording them.
        slots: images that it evaluates together at most.
        occupancy: share of slots times evaluations that had an image; None where the trace does not say.
    """

    rank: int
    wall_s: float
    seconds: dict[str, float]
    busy: float
    stalled_s: float
    sent_bytes: int
    peak_memory_bytes: int
    recorded: int = 0
    refused: int = 0
    record_s: float = 0.0
    slots: int = 1
    occupancy: float | None = None


def summarised(trace: Trace) -> list[RankSummary]:
    """One line per rank, phases in the order of a job."""
    return [_summary(rank) for rank in trace.ranks]


def usage_of(trace: Trace) -> Usage:
    """The sums that an attempt's report carries; the leader is the first rank."""
    summaries = summarised(trace)
    return Usage(
        seconds=summaries[0].seconds if summaries else {},
        rank_seconds=round(sum(summary.wall_s for summary in summaries), 3),
        stalled_s=round(sum(summary.stalled_s for summary in summaries), 3),
        sent_bytes=sum(summary.sent_bytes for summary in summaries),
        peak_memory_bytes=max((summary.peak_memory_bytes for summary in summaries), default=0),
    )


def find_trace(artifacts: Artifacts, job: str, attempt: int | None) -> Trace:
    """The trace of a job's attempt, or of the last that left one.

    Raises RequestError if there is none, StoreUnavailable or RecordUnreadable.
    """
    batch_id, index = parsed_job_ref(job)
    objects = BatchObjects(batch_id)
    own = objects.trace(index, 0).removesuffix("0.json")
    found = (re.fullmatch(r"([0-9]{1,9})\.json", key[len(own) :]) for key in artifacts.list(own))
    numbers = sorted(int(one[1]) for one in found if one)
    number = attempt if attempt is not None else next(reversed(numbers), 0)
    trace = fetch(Trace, artifacts, objects.trace(index, number)) if number in numbers else None
    if trace is None:
        left = f"there are attempts {', '.join(map(str, numbers))}" if numbers else "none of its attempts left one"
        raise RequestError(
            f"no trace of {job}{f', attempt {attempt}' if attempt is not None else ''}: {left}; a pod writes it at its "
            "end, unless it was killed"
        )
    if (trace.batch_id, trace.job_index, trace.attempt) != (batch_id, index, number):
        raise RecordForeign(objects.trace(index, number), "the trace of another attempt", f"that of {job}, {number}")
    return trace


def _summary(rank: RankTrace) -> RankSummary:
    own = [span for span in rank.spans if span.track == RANK_TRACK]
    wall_s = (max(s.end_ns for s in own) - min(s.start_ns for s in own)) / 1e9 if own else 0.0
    seconds: dict[str, float] = {}
    for name in in_order({span.name for span in own}):
        seconds[name] = round(sum(span.seconds for span in own if span.name == name), 3)
    recordings = [span for span in rank.spans if span.track == REPLAY_TRACK]
    refused = sum(span.detail.get("refused") is not None for span in recordings)
    working_s = max(0.0, sum(seconds.get(name, 0.0) for name in WORK) - rank.stalled_s)
    return RankSummary(
        rank=rank.rank,
        wall_s=round(wall_s, 3),
        seconds=seconds,
        busy=round(working_s / wall_s, 4) if wall_s else 0.0,
        stalled_s=round(rank.stalled_s, 3),
        sent_bytes=rank.sent_bytes,
        peak_memory_bytes=rank.peak_memory_bytes,
        recorded=len(recordings) - refused,
        refused=refused,
        record_s=round(sum(span.seconds for span in recordings), 3),
        slots=max((span.detail.get("slots", 1) for span in own), default=1),
        occupancy=_occupancy(own),
    )


def _occupancy(spans: Iterable[SpanRecord]) -> float | None:
    """Images through slots, over all evaluations of a rank that has several slots."""
    taken = offered = 0
    for span in spans:
        if "slots" in span.detail:
            evaluations = span.detail.get("synchronous", 0) + span.detail.get("displaced", 0)
            taken += evaluations * span.detail["images"]
            offered += evaluations * span.detail["slots"]
    return round(taken / offered, 4) if offered else None


def in_order(names: Iterable[str]) -> list[str]:
    """Phases as a job goes through them, then the others by name."""
    found, phases = set(names), [phase.value for phase in TracePhase]
    return [name for name in phases if name in found] + sorted(found.difference(phases))


def chrome_events(trace: Trace) -> dict[str, Any]:
    """The trace for chrome://tracing and ui.perfetto.dev: a process per rank, a thread per track, times in us."""
    zero_ns = min((span.start_ns for rank in trace.ranks for span in rank.spans), default=0)
    events: list[dict[str, Any]] = []
    for rank in trace.ranks:
        tracks = sorted({span.track for span in rank.spans}, key=lambda track: (track != RANK_TRACK, track))
        events.append(_named("process_name", rank.rank, 0, f"rank {rank.rank} ({rank.device})"))
        events += [_named("thread_name", rank.rank, place, track) for place, track in enumerate(tracks)]
        events += [
            {
                "ph": "X",
                "name": span.name,
                "cat": span.track,
                "pid": rank.rank,
                "tid": tracks.index(span.track),
                "ts": (span.start_ns - zero_ns) / 1000,
                "dur": (span.end_ns - span.start_ns) / 1000,
                "args": span.detail,
            }
            for span in rank.spans
        ]
    about = {"batch": trace.batch_id, "job": trace.job_index, "attempt": trace.attempt}
    summaries = [summary.model_dump() for summary in summarised(trace)]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about | {"ranks": summaries}}


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
