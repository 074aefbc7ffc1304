"""docs/outcomes.md says of every outcome what the retry policy makes of it."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.records.attempt import AttemptOutcome, Code
from tasks.jobs.retry_policy import (
    BLAMES_AN_IMAGE,
    FIRST_DELAY_S,
    FIRST_DISRUPTION_DELAY_S,
    LONGEST_DELAY_S,
    WANTS_MEMORY,
    GiveUp,
    Limits,
    Tally,
    decide,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "outcomes.md").read_text()
TABLE = re.compile(r"^\| `(?P<code>[A-Z_]+)` \| (?P<rest>.+) \|$", re.MULTILINE)


def _cost_and_delay(code: Code) -> tuple[str, str]:
    """What the first end of this kind costs a job and after how long another attempt follows, as the page says it."""
    first = Tally()
    decision = decide(AttemptOutcome(code, "why"), first, Limits(100, 100), isolated=False, random=lambda: 1.0)
    if isinstance(decision, GiveUp):
        return "the job", "none"
    if decision.tally == first:
        assert decision.delay_s == 0
        return "nothing", "unpausing"
    cost = {Tally(spent=1): "an attempt", Tally(disrupted=1): "a disruption"}[decision.tally]
    return cost, f"{decision.delay_s:g} s"


def test_every_outcome_has_its_row_with_what_it_costs_and_when_the_next_attempt_follows() -> None:
    rows = {match["code"]: match["rest"].split(" | ") for match in TABLE.finditer(PAGE)}
    assert sorted(rows) == sorted(code.value for code in Code)
    assert {len(cells) for cells in rows.values()} == {5}
    assert {code: tuple(cells[1:3]) for code, cells in rows.items()} == {
        code.value: _cost_and_delay(code) for code in Code
    }


def test_what_is_given_up_says_so_and_nothing_else_does() -> None:
    rows = {match["code"]: match["rest"].split(" | ") for match in TABLE.finditer(PAGE)}
    given_up = {code for code, cells in rows.items() if "Gives the job up" in cells[3]}
    assert given_up == {code for code, cells in rows.items() if cells[1] == "the job"}


def test_the_delays_of_the_text_are_those_of_the_policy() -> None:
    assert f"{FIRST_DELAY_S:g} s after a failure and {FIRST_DISRUPTION_DELAY_S:g} s after a disruption" in PAGE
    assert f"up to {LONGEST_DELAY_S:g} s" in PAGE


def test_the_text_names_the_ends_that_an_image_may_be_to_blame_for() -> None:
    memory, others = (re.findall(r"`([A-Z_]+)`", part) for part in re.findall(r"\((`[A-Z_]+`(?:, `[A-Z_]+`)+)\)", PAGE))
    assert set(memory) == {code.value for code in WANTS_MEMORY}
    assert set(others) == {code.value for code in BLAMES_AN_IMAGE - WANTS_MEMORY}
