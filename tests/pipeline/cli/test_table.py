"""Tables in terminals and in pipes."""

from __future__ import annotations

import sys

import pytest

from pipeline.cli.table import print_table

ROWS = [("20261128-003202-ef36fa", "", "1/1"), ("b", "", "2/3")]


@pytest.mark.parametrize(
    ("terminal", "columns", "shown"),
    [
        (True, "30", ["batch                   images", "20261128-003202-ef36fa  1/1", "b                       2/3"]),
        (True, "80", ["batch                   failed  images"]),
        (False, "30", ["batch                   failed  images"]),
    ],
    ids=["a narrow terminal", "a wide one", "a pipe"],
)
def test_columns_without_anything_go_where_a_terminal_is_narrow(
    *,
    terminal: bool,
    columns: str,
    shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    print_table("batch", "failed", "images", rows=ROWS)
    assert capsys.readouterr().out.splitlines()[: len(shown)] == shown


def test_what_has_no_room_at_the_end_of_a_line_stands_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    rows = [("20261128-003202-ef36fa", "", "0/1", "a free slot: all are taken"), ("b", "", "2/3", "")]
    print_table("batch", "failed", "images", "waits for", rows=rows)
    assert capsys.readouterr().out.splitlines() == [
        "batch                   images",
        "20261128-003202-ef36fa  0/1",
        "  waits for: a free slot: all are taken",
        "b                       2/3",
    ]
