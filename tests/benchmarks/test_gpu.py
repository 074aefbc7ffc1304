"""The measurements on a GPU: what goes wrong in one costs itself only."""

from __future__ import annotations

from benchmarks.engine.gpu import page
from benchmarks.engine.gpu.bench import Bench, Row
from benchmarks.engine.gpu.process import rows_of

BENCH = Bench(small=True, repeats=1, link_gb_s=300.0)


def test_a_part_whose_process_fails_says_so() -> None:
    (row,) = rows_of("no_such_part", BENCH, limit_s=200.0)
    assert row == {"failed": "the process ended with exit code 1"}


def test_a_part_that_takes_too_long_is_stopped() -> None:
    (row,) = rows_of("one_rank", BENCH, limit_s=0.0)
    assert row == {"failed": "stopped after 0 s, its share of the time"}


def test_a_row_that_fails_keeps_what_it_is_about() -> None:
    def works() -> Row:
        return {"ms": 1.5}

    def runs_out() -> Row:
        raise MemoryError("64 GB wanted\nand more")

    rows = [*BENCH.guarded({"pixels": 1024}, works), *BENCH.guarded({"pixels": 3840}, runs_out)]
    assert rows == [{"pixels": 1024, "ms": 1.5}, {"pixels": 3840, "failed": "MemoryError: 64 GB wanted"}]
    machine = {"device": "a GPU", "torch": "2.11", "measured": "today"}
    text = page.markdown({"one_rank": {"machine": machine, "rows": rows}})
    assert "| 3840 |  | MemoryError: 64 GB wanted |" in text
