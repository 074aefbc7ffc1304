"""What each image has taken of work for several."""

from collections.abc import Iterator

from distri.ranks.mesh import TrafficCounter
from distri.ranks.spans import Spans
from distri.slots.laps import Laps, Taken


def test_laps_follow_each_other_and_are_shared_among_those_they_were_for() -> None:
    clock: Iterator[int] = iter([0, 2_000_000_000, 5_000_000_000, 7_000_000_000, 8_000_000_000])
    spans, traffic, one, other = Spans(), TrafficCounter(), Taken(), Taken()
    laps = Laps(spans, lambda: next(clock), traffic)
    laps.lap("encode", [one])
    traffic.sent_bytes += 100
    laps.lap("denoise", [one, other], images=2)
    laps.begin()
    laps.lap("denoise", [other])
    assert (one.seconds, one.sent_bytes) == ({"encode": 2.0, "denoise": 1.5}, 50)
    assert (other.seconds, other.sent_bytes) == ({"denoise": 2.5}, 50)
    assert [(span.start_ns // 10**9, span.end_ns // 10**9, span.detail) for span in spans] == [
        (0, 2, {}),
        (2, 5, {"images": 2}),
        (7, 8, {}),
    ]
