"""A trace drawn as a timeline: one lane per rank and track, one colour per phase."""

from __future__ import annotations

import io
from itertools import cycle

from PIL import Image, ImageDraw, ImageFont

from pipeline.bucket.trace import RANK_TRACK, SpanRecord, Trace, TracePhase, in_order, summarised

WIDTH_PX, LEFT_PX, RIGHT_PX, LANE_PX, GAP_PX, TOP_PX = 1600, 230, 190, 22, 6, 70
INK, PAPER, GRID = (32, 34, 40), (255, 255, 255), (226, 228, 233)
# Strong colours for rendering, pale ones for start-up; colour-blind people can tell them apart (Okabe and Ito).
COLOURS: dict[str, tuple[int, int, int]] = {
    TracePhase.LAUNCH: (222, 224, 230),
    TracePhase.START: (200, 203, 212),
    TracePhase.MEET: (176, 180, 192),
    TracePhase.CLAIM: (150, 155, 170),
    TracePhase.LOAD: (86, 180, 233),
    TracePhase.ASK: (213, 94, 0),
    TracePhase.ENCODE: (240, 228, 66),
    TracePhase.DENOISE: (0, 114, 178),
    TracePhase.ENLARGE: (204, 121, 167),
    TracePhase.DECODE: (0, 158, 115),
    TracePhase.HAND_OVER: (230, 159, 0),
    TracePhase.FINISH: (120, 124, 140),
}
OTHERS = ((230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233))


def timeline_png(trace: Trace) -> bytes:
    """The timeline as PNG, time from left to right; lanes of ranks first, then those of their helpers."""
    spans = [span for rank in trace.ranks for span in rank.spans]
    first_ns = min((span.start_ns for span in spans), default=0)
    total_ns = max((span.end_ns for span in spans), default=1) - first_ns or 1
    names = in_order({span.name for span in spans})
    others = cycle(OTHERS)
    colours = {name: COLOURS.get(name) or next(others) for name in names}
    lanes = _lanes(trace)
    height = TOP_PX + len(lanes) * (LANE_PX + GAP_PX) + 40
    image = Image.new("RGB", (WIDTH_PX, height), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)

    def x_of(ns: int) -> float:
        return LEFT_PX + (ns - first_ns) / total_ns * (WIDTH_PX - LEFT_PX - RIGHT_PX)

    title = f"{trace.batch_id}/{trace.job_index}, attempt {trace.attempt}: {total_ns / 1e9:.1f} s"
    draw.text((10, 10), title, fill=INK, font=ImageFont.load_default(size=16))
    _legend(draw, font, colours)
    bottom = TOP_PX + len(lanes) * (LANE_PX + GAP_PX)
    step_s = _round_step(total_ns / 1e9 / 10)
    for tick in range(int(total_ns / 1e9 / step_s) + 1):
        x = x_of(first_ns + int(tick * step_s * 1e9))
        draw.line((x, TOP_PX - 4, x, bottom), fill=GRID)
        draw.text((x, bottom + 4), f"{tick * step_s:g} s", fill=INK, font=font, anchor="ma")
    for place, (label, remark, own) in enumerate(lanes):
        y = TOP_PX + place * (LANE_PX + GAP_PX)
        draw.text((LEFT_PX - 10, y + LANE_PX / 2), label, fill=INK, font=font, anchor="rm")
        draw.text((WIDTH_PX - RIGHT_PX + 8, y + LANE_PX / 2), remark, fill=INK, font=font, anchor="lm")
        for span in own:
            # At least one pixel wide, so that short spans can be seen.
            right = max(x_of(span.end_ns), x_of(span.start_ns) + 1)
            draw.rectangle((x_of(span.start_ns), y, right, y + LANE_PX), fill=colours[span.name])
            if (steps := span.detail.get("evaluations")) is not None:  # an image in its slot, beside the next one
                left, number = x_of(span.start_ns), str(steps)
                draw.line((left, y, left, y + LANE_PX), fill=PAPER, width=2)
                if draw.textlength(number, font=font) + 6 < right - left:
                    draw.text(((left + right) / 2, y + LANE_PX / 2), number, fill=PAPER, font=font, anchor="mm")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _lanes(trace: Trace) -> list[tuple[str, str, list[SpanRecord]]]:
    """Label, remark and spans of each lane."""
    busy = {
        summary.rank: f"busy {summary.busy:.0%}"
        + ("" if summary.occupancy is None else f", occupied {summary.occupancy:.0%}")
        for summary in summarised(trace)
    }
    lanes = [
        (f"rank {rank.rank}", busy[rank.rank], [span for span in rank.spans if span.track == RANK_TRACK])
        for rank in trace.ranks
    ]
    for rank in trace.ranks:
        for track in sorted({span.track for span in rank.spans} - {RANK_TRACK}):
            lanes.append((f"rank {rank.rank}: {track}", "", [span for span in rank.spans if span.track == track]))
    return lanes


def _legend(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colours: dict[str, tuple[int, int, int]],
) -> None:
    x = 10.0
    for name, colour in colours.items():
        draw.rectangle((x, 42, x + 14, 56), fill=colour)
        draw.text((x + 20, 49), name, fill=INK, font=font, anchor="lm")
        x += 34 + draw.textlength(name, font=font)


def _round_step(least_s: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 1e-6
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least_s:
                return factor * power
        power *= 10
