"""What submission and expansion hold of a large prompt set: a digest a row, and a window of rows."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from pipeline.deployment.announcement import Deployment
from pipeline.states import BatchState
from tasks.control.expand import expand
from tests.tasks.stage import Stage

ROW_CHARACTERS = 1000
FEW, MANY = 10_000, 30_000  # of which each is more than spools and windows hold
# What a window holds at its fullest is a matter of which threads run when: some MB in either direction.
MOST_BYTES_A_ROW = 300


@pytest.fixture
def roomy(stage: Stage) -> Stage:
    """A deployment whose jobs are large, so that little is written."""
    stage.worker = stage.new_worker("roomy", images_per_job=1000)
    stage.ledger.announce(Deployment.of(stage.settings, "0"))
    return stage


def _rows(count: int) -> Iterator[dict[str, object]]:
    return ({"prompt": f"{number} ".ljust(ROW_CHARACTERS, "x"), "width": 64, "height": 64} for number in range(count))


def _peak_bytes(work: Callable[[], object]) -> int:
    gc.collect()
    gc.freeze()  # what other tests have left would make collections rare, and so the peak a matter of their number
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.unfreeze()


def test_a_submission_holds_a_digest_of_each_row_and_not_the_row(roomy: Stage) -> None:
    few, many = (
        _peak_bytes(partial(roomy.accepted, batch_id=f"b{count}", prompts=_rows(count))) for count in (FEW, MANY)
    )
    assert (many - few) / (MANY - FEW) < MOST_BYTES_A_ROW < ROW_CHARACTERS


def test_an_expansion_holds_a_window_of_rows_however_many_there_are(roomy: Stage) -> None:
    peaks = []
    for count in (FEW, MANY):
        roomy.accepted(batch_id=f"b{count}", prompts=_rows(count))
        peaks.append(_peak_bytes(partial(expand, roomy.worker, f"b{count}")))
        assert roomy.batch_state(f"b{count}") is BatchState.IN_PROGRESS
    assert (peaks[1] - peaks[0]) / (MANY - FEW) < MOST_BYTES_A_ROW < ROW_CHARACTERS
