"""Prompt sets that are wrong somewhere: every error at once, by line and field, and no prompt in any of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from pipeline.errors import SHOWN_ERRORS, PromptSetError, RequestError, RowError, RowWarning
from pipeline.promptset.fields.row import Options, ResolvedRow
from pipeline.promptset.formats.lines import MAX_LINE_BYTES
from pipeline.promptset.formats.source import Prompts, Source, open_source
from pipeline.promptset.validate import KEPT_WARNINGS, Validation, resolved_rows
from pipeline.records.results import RefusedLine
from tests.factories import deployment, prompts_file

Lines = Iterable[Mapping[str, Any] | str | bytes]


def _read(prompts: Prompts, **deployed: Any) -> tuple[list[ResolvedRow], Validation]:
    source = open_source(prompts)
    validation = Validation(source.name)
    rows = resolved_rows(source, Options(), deployment(**deployed), validation, batch_seed=1)
    return list(rows), validation


def _errors(tmp_path: Path, lines: Lines) -> list[str]:
    return [str(error) for error in _read(prompts_file(tmp_path / "p.jsonl", lines))[1].errors]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "x"', "line 17: broken JSON at column 15"),
        (b"\xff\xfe{}", "line 17: not UTF-8 at byte 1"),
        (b'{"prompt": "caf\xe9"}', "line 17: not UTF-8 at byte 16"),
        (b"[1]", "line 17: list found; a JSON object wanted"),
        (b'"a prompt"', "line 17: str found; a JSON object wanted"),
        (b"null", "line 17: NoneType found; a JSON object wanted"),
        (b'{"prompt": "x", "guidance_scale": NaN}', "line 17: broken JSON: NaN is not a JSON number"),
        (b'{"prompt": "x", "guidance_scale": -Infinity}', "line 17: broken JSON: -Infinity is not a JSON number"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", "line 17: broken JSON: Exceeds the limit"),
        (b'{"a":' * 150_000 + b"}", "line 17: broken JSON"),
        (b'{"prompt": "' + b"x" * MAX_LINE_BYTES + b'"}', "line 17: longer than 1,000,000 bytes"),
        (b'{"prompt": "x", "height": 63}', "line 17: height: 63 found; 64 to 16384 pixels wanted"),
        (b'{"prompt": "x", "hight": 64}', "line 17: hight: unknown field; did you mean height."),
        (b'{"custom_id": "a"}', "line 17: prompt: missing"),
        (b'{"prompt": "x", "num_images": 1000000000}', "line 17: num_images: .*1000 .1000000000 found"),
        (b'{"prompt": "x", "guidance_scale": 1e999}', "line 17: guidance_scale: .*finite number"),
        (b'{"prompt": "x", "custom_id": "row-3"}', "line 17: custom_id: 'row-3' was used on line 3"),
        (b'{"prompt": "x", "model": "other"}', "line 17: model: 'other' is not on the allow-list"),
        (
            b'{"prompt": "x", "width": 64, "height": 8192000}',
            "line 17: height: 8192000 found; 64 to 16384 pixels wanted",
        ),
    ],
)
def test_a_broken_line_is_named_and_its_neighbours_are_read(tmp_path: Path, line: bytes, message: str) -> None:
    lines = [{"prompt": f"p{number}"} for number in range(1, 20)]
    path = prompts_file(tmp_path / "p.jsonl", [*lines[:16], line, *lines[17:]])
    rows, validation = _read(path)
    assert len(rows) == 18
    assert [row.row for row in rows] == list(range(18))
    [error] = validation.errors
    assert error.line == 17
    with pytest.raises(PromptSetError, match=rf"(?s)p\.jsonl: 1 error, nothing was submitted\n  {message}"):
        validation.raise_if_refused()


def test_all_errors_of_all_rows_come_at_once(tmp_path: Path) -> None:
    assert _errors(
        tmp_path,
        [
            {"prompt": "x", "width": 63, "steps": 0},
            "not json",
            {"prompt": "ok", "custom_id": "a"},
            {"prompt": "x", "custom_id": "a"},
            {"custom_id": "b", "colour": "red"},
        ],
    ) == [
        "line 1: width: 63 found; 64 to 16384 pixels wanted",
        "line 1: steps: Input should be greater than or equal to 1 (0 found)",
        "line 2: broken JSON at column 1: Expecting value",
        "line 4: custom_id: 'a' was used on line 3; every row needs its own",
        "line 5: prompt: missing",
        "line 5: colour: unknown field; the nearest are lora, loras, control (docs/prompt-sets.md has all)",
    ]


def test_what_is_no_list_or_object_is_named_without_words_of_python(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "x", "control": 5},
        {"prompt": "x", "control": [5]},
        {"prompt": "x", "reference": True},
    ]
    assert _errors(tmp_path, rows) == [
        "line 1: control: a list wanted (5 found)",
        "line 2: control.0: an object with fields of its own wanted (5 found)",
        "line 3: reference: a list wanted (True found)",
    ]


def test_only_the_first_errors_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    path = prompts_file(tmp_path / "p.jsonl", [{"prompt": ""}] * 500)
    _, validation = _read(path)
    with pytest.raises(PromptSetError) as error:
        validation.raise_if_refused()
    assert (error.value.total, len(error.value.errors)) == (500, 500)
    assert "500 errors" in str(error.value)
    assert str(error.value).endswith(f"and {500 - SHOWN_ERRORS} more")


@pytest.mark.parametrize("body", [b"", b"\n\n  \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(body)
    _, validation = _read(path)
    for skip in (False, True):
        with pytest.raises(PromptSetError, match="no rows found; at least one wanted"):
            validation.raise_if_refused(skip_invalid=skip)


def test_a_byte_order_mark_blank_lines_and_a_missing_last_newline_are_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes('\ufeff{"prompt": "a"}\r\n\r\n  \n\ufeff{"prompt": "ü"}'.encode())
    rows, validation = _read(path)
    assert not validation.errors
    assert [(row.custom_id, row.prompt) for row in rows] == [("row-1", "a"), ("row-4", "ü")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "SECRET\x00"},
        {"prompt": "SECRET" * 5000},
        {"prompt": ["SECRET"]},
        {"prompt": "x", "negative_prompt": "SECRET\x07"},
        {"prompt": "x", "negative_prompt": {"SECRET": 1}},
        {"prompt": "x", "metadata": {"k": ["SECRET"]}},
        {"prompt": "SECRET", "width": 63},
        {"prompt": "SECRET", "nope": "SECRET"},
    ],
)
def test_messages_never_repeat_prompts_or_metadata(tmp_path: Path, row: dict[str, Any]) -> None:
    [error] = _errors(tmp_path, [row])
    assert "SECRET" not in error


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\ud800", "x" * 5000])
def test_a_strange_field_name_is_shown_short_and_harmless(tmp_path: Path, name: str) -> None:
    """It goes to terminals, and into invalid.jsonl."""
    _, validation = _read(prompts_file(tmp_path / "p.jsonl", [{"prompt": "x", name: 1}]))
    [error] = validation.errors
    assert str(error).isprintable()
    assert len(error.field or "") < 100
    assert RefusedLine.of(error).model_dump_json()


def test_a_row_with_two_errors_is_one_invalid_row(tmp_path: Path) -> None:
    rows, validation = _read(
        prompts_file(tmp_path / "p.jsonl", [{"prompt": "a", "width": 63, "height": 65_000}, {"prompt": "b"}, "{"])
    )
    assert (len(rows), validation.rows, validation.invalid_rows, len(validation.errors)) == (1, 1, 2, 3)


def test_one_wrong_metadata_value_is_one_error(tmp_path: Path) -> None:
    assert _errors(tmp_path, [{"prompt": "x", "metadata": {"k": [1]}}]) == [
        "line 1: metadata.k: a text, a number, true, false or null wanted"
    ]


def test_rows_in_memory_are_prompts_or_objects_of_any_mapping() -> None:
    rows, validation = _read(["a", {"prompt": "b", "seed": 3}, MappingProxyType({"prompt": "c"}), 7])  # type: ignore[list-item]
    assert [row.prompt for row in rows] == ["a", "b", "c"]
    assert validation.errors == [RowError(4, None, "int found; a prompt or an object wanted")]


def test_a_generator_of_rows_is_read_once_and_lazily() -> None:
    read = []

    def prompts() -> Iterable[str]:
        for number in range(5):
            read.append(number)
            yield f"p{number}"

    source = open_source(prompts())
    rows = resolved_rows(source, Options(), deployment(), Validation("p"), batch_seed=1)
    next(rows)
    assert read == [0]
    assert len(list(rows)) == 4


def test_first_images_follow_one_another(tmp_path: Path) -> None:
    rows, validation = _read([{"prompt": "a", "num_images": 3}, {"prompt": "b"}, {"prompt": "c", "num_images": 2}])
    assert [row.first_image for row in rows] == [0, 3, 4]
    assert validation.images == 6


@pytest.mark.parametrize("prompts", ["a fox in the snow", "prompts.csv", "nowhere.jsonl", Path("nowhere.ndjson"), "."])
def test_what_is_no_file_of_rows_says_what_is_wanted(prompts: str | Path) -> None:
    with pytest.raises(RequestError, match=r"\.jsonl|no such file"):
        open_source(prompts)


def test_more_rows_than_the_deployment_takes_are_refused() -> None:
    assert len(_read(["p"] * 5, max_rows=5)[0]) == 5
    with pytest.raises(RequestError, match="more than 5 rows; split it"):
        _read(["p"] * 6, max_rows=5)


def test_html_in_prompts_and_ids_is_taken_as_it_stands(tmp_path: Path) -> None:
    text = "<img src=x onerror=alert(1)>"
    rows, validation = _read(prompts_file(tmp_path / "p.jsonl", [json.dumps({"prompt": text, "custom_id": text})]))
    assert not validation.errors
    assert (rows[0].prompt, rows[0].custom_id) == (text, text)


def test_warnings_of_valid_rows_are_kept_once_each_and_counted() -> None:
    source = Source("p", iter([(1, RowWarning(1, None, "odd")), (1, {"prompt": "a"}), (2, RowWarning(2, None, "odd"))]))
    validation = Validation(source.name)
    rows = list(resolved_rows(source, Options(), deployment(), validation, batch_seed=1))
    assert (len(rows), validation.invalid_rows) == (1, 0)
    assert [str(warning) for warning in validation.warnings] == ["line 1 (and 1 more): odd"]
    for number in range(KEPT_WARNINGS + 9):
        validation.warn(RowWarning(number, "seed", f"odd {number}"))
    assert len(validation.warnings) == KEPT_WARNINGS
