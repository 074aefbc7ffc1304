"""docs/reliability.md shows what the fault tests and the soak measured."""

from __future__ import annotations

from tests.faults.page import PAGE, written


def test_the_page_has_the_figures_of_the_results() -> None:
    page = PAGE.read_text()
    assert page == written(page), "run `python -m tests.faults.page`"
