"""What ranks note, as the trace names it."""

from distri.ranks.replay import REPLAY
from distri.ranks.spans import RANK, RenderSpan
from pipeline.bucket.trace import RANK_TRACK, REPLAY_TRACK, WORK


def test_the_spans_of_the_engine_are_the_phases_that_count_as_rendering() -> None:
    assert {span.value for span in RenderSpan} == {phase.value for phase in WORK}
    assert (RANK, REPLAY) == (RANK_TRACK, REPLAY_TRACK)
