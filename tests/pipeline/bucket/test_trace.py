"""Traces: sums, Chrome's format, the picture, and finding the right one."""

from __future__ import annotations

import io
import json
from itertools import groupby
from typing import Any

import pytest
from PIL import Image

from distri.ranks.spans import RenderSpan
from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.trace import (
    RankTrace,
    SpanRecord,
    Trace,
    TracePhase,
    chrome_events,
    find_trace,
    summarised,
    usage_of,
)
from pipeline.deployment.settings import Settings
from pipeline.errors import RequestError
from pipeline.outputs.timeline import COLOURS, GAP_PX, LANE_PX, OTHERS, TOP_PX, timeline_png
from pipeline.records.attempt import Code, PodReport
from pipeline.records.object_keys import BatchObjects

S = 1_000_000_000


def _span(name: str, start_s: float, end_s: float, **more: Any) -> SpanRecord:
    return SpanRecord(name=name, start_ns=int((100 + start_s) * S), end_ns=int((100 + end_s) * S), **more)


def _trace(attempt: int = 1) -> Trace:
    leader = RankTrace(
        rank=0,
        device="cpu",
        sent_bytes=10,
        stalled_s=1.0,
        peak_memory_bytes=500,
        spans=(
            _span("load", 0, 2),
            _span("denoise", 2, 7, detail={"image": "0000000-000"}),
            _span("decode", 7, 8),
            _span("file", 8, 9, track="files"),
            _span("odd", 8, 10),
        ),
    )
    other = RankTrace(
        rank=1, device="cpu", sent_bytes=5, peak_memory_bytes=700, spans=(_span("load", 0, 4), _span("denoise", 4, 8))
    )
    return Trace(batch_id="b", job_index=3, attempt=attempt, ranks=(leader, other))


def test_sums_are_by_phase_of_the_ranks_own_track() -> None:
    leader, other = summarised(_trace())
    assert leader.seconds == {"load": 2, "denoise": 5, "decode": 1, "odd": 2}
    assert list(leader.seconds) == ["load", "denoise", "decode", "odd"]
    assert leader.wall_s == 10
    assert leader.busy == pytest.approx((5 + 1 - 1) / 10)
    assert other.busy == pytest.approx(4 / 8)


def test_occupancy_is_of_slots_and_evaluations() -> None:
    assert summarised(_trace())[0].occupancy is None
    spans = tuple(
        _span(
            "denoise", place, place + 1, detail={"images": images, "slots": 4, "synchronous": 2, "displaced": displaced}
        )
        for place, (images, displaced) in enumerate([(4, 6), (1, 0)])
    )
    trace = Trace(batch_id="b", job_index=0, attempt=1, ranks=(RankTrace(rank=0, device="cpu", spans=spans),))
    [summary] = summarised(trace)
    assert (summary.slots, summary.occupancy) == (4, (8 * 4 + 2 * 1) / (10 * 4))


def test_usage_adds_up_the_ranks() -> None:
    usage = usage_of(_trace())
    assert usage.rank_seconds == 18
    assert usage.sent_bytes == 15
    assert usage.peak_memory_bytes == 700
    assert usage.seconds["denoise"] == 5


def test_a_report_carries_every_phase_that_a_rank_has() -> None:
    phases = list(dict.fromkeys(phase.value for phase in (*TracePhase, *RenderSpan)))
    spans = tuple(_span(phase, place, place + 1) for place, phase in enumerate(phases))
    trace = Trace(batch_id="b", job_index=0, attempt=1, ranks=(RankTrace(rank=0, device="cpu", spans=spans),))
    report = PodReport.from_message(PodReport(code=Code.SUCCEEDED, usage=usage_of(trace)).model_dump_json())
    assert report is not None
    assert report.usage is not None
    assert report.usage.seconds == dict.fromkeys(phases, 1.0)


def test_a_rank_without_spans_is_no_error() -> None:
    empty = Trace(batch_id="b", job_index=0, attempt=1, ranks=(RankTrace(rank=0, device="cpu", spans=()),))
    assert summarised(empty)[0].busy == 0
    assert chrome_events(empty)["traceEvents"]
    assert timeline_png(empty)


def test_chrome_gets_a_process_a_rank_and_a_thread_a_track() -> None:
    events = json.loads(json.dumps(chrome_events(_trace())))["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == 7
    assert min(event["ts"] for event in complete) == 0
    denoise = next(event for event in complete if event["name"] == "denoise" and event["pid"] == 0)
    assert denoise["dur"] == 5e6
    assert denoise["args"] == {"image": "0000000-000"}
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {(0, 0): "rank", (0, 1): "files", (1, 0): "rank"}


def test_the_picture_shows_every_phase_in_its_colour() -> None:
    with Image.open(io.BytesIO(timeline_png(_trace()))) as image:
        colours = {pixel for _, pixel in image.getcolors(1 << 24) or []}
    assert {COLOURS["load"], COLOURS["denoise"], COLOURS["decode"], *OTHERS[:2]} <= colours  # the last: file and odd


def test_images_that_follow_each_other_in_a_slot_can_be_told_apart() -> None:
    spans = [
        _span("denoise", start, start + 5, track="slot 0", detail={"image": str(start), "evaluations": 20})
        for start in (0, 5)
    ]
    trace = Trace(batch_id="b", job_index=0, attempt=1, ranks=(RankTrace(rank=0, device="cpu", spans=tuple(spans)),))
    with Image.open(io.BytesIO(timeline_png(trace))) as image:
        top = TOP_PX + LANE_PX + GAP_PX + 2  # above the numbers, in the lane after the rank's own
        lane = [image.getpixel((x, top)) for x in range(image.width)]
    bars = [len(list(group)) for colour, group in groupby(lane) if colour == COLOURS["denoise"]]
    assert len(bars) == 2


def test_the_last_attempt_that_left_a_trace_is_found(settings: Settings) -> None:
    artifacts = Artifacts(settings)
    objects = BatchObjects("traced")
    for job, attempt in ((3, 2), (3, 10), (30, 11)):
        found = _trace(attempt).model_copy(update={"batch_id": "traced", "job_index": job})
        artifacts.put(objects.trace(job, attempt), found.model_dump_json().encode(), content_type="application/json")
    assert find_trace(artifacts, "traced/3", None).attempt == 10
    assert find_trace(artifacts, "traced/00003", 2).attempt == 2
    with pytest.raises(RequestError, match="attempt 4: there are attempts 2, 10"):
        find_trace(artifacts, "traced/3", 4)
    with pytest.raises(RequestError, match="none of its attempts left one"):
        find_trace(artifacts, "traced/4", None)
    with pytest.raises(RequestError, match="BATCH/JOB wanted"):
        find_trace(artifacts, "traced", None)


def test_what_is_replayed_is_counted_and_is_no_phase_of_the_rank() -> None:
    kept, refused = ({"refused": None}, {"refused": "a module synchronises"})
    spans = [
        SpanRecord(name="record", track="replay", start_ns=0, end_ns=int(seconds * 1e9), detail=detail)
        for seconds, detail in ((0.25, kept), (0.5, refused), (0.25, kept))
    ]
    [summary] = summarised(
        Trace(batch_id="b", job_index=0, attempt=1, ranks=(RankTrace(rank=0, device="cpu", spans=tuple(spans)),))
    )
    assert (summary.recorded, summary.refused, summary.record_s, summary.seconds) == (2, 1, 1.0, {})
