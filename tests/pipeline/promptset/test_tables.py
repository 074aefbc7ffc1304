"""Tables as people have them: bad quotes, spreadsheets' and pandas' habits, columns that are no fields."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RequestError
from pipeline.promptset.formats import tables
from pipeline.promptset.formats.lines import ReadOptions
from tests.pipeline.promptset.reading import read, said, values

EXTRA = ReadOptions(extra_columns="metadata")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('"b,2', "a quote is opened and not closed in this line"),  # it ends with the quote of the next row
        ('"f" g,6', "',' expected after '\"'"),
        ('a,"6', "a quote is opened and not closed in this line"),
        ('"c""d,5', "a quote is opened and not closed in this line"),
        ('"', "a quote is opened and not closed in this line"),
    ],
)
def test_one_bad_quote_costs_one_row(tmp_path: Path, line: str, words: str) -> None:
    body = f'prompt,seed\na,1\n{line}\nc,3\n"d, ""ok""",4\ne "x" y,5\n'
    rows, found = read(tmp_path / "p.csv", body)
    errors, _ = said(found)
    assert [row.prompt for row in rows] == ["a", "c", 'd, "ok"', 'e "x" y']
    assert (len(errors), found.invalid_rows) == (1, 1)
    assert errors == [f"line 3: broken CSV: {words}"]


def test_a_quote_that_swallows_a_whole_row_and_closes_is_noticed(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.csv", 'custom_id,prompt,seed\n1,"a hen,7\n2,a cow",7\n3,ok,8\n')
    assert said(found)[0] == ["line 2: broken CSV: a quote is opened and not closed in this line"]
    assert [row.custom_id for row in rows] == ["2", "3"]


def test_the_last_line_may_have_the_bad_quote(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.csv", 'prompt\na\n"b')
    assert said(found)[0] == ["line 3: broken CSV: a quote is opened and not closed in this line"]
    assert [row.prompt for row in rows] == ["a"]


def test_what_is_left_out_is_counted_exactly(tmp_path: Path) -> None:
    """A thousand rows, a tenth of them with a stray quote: neither their neighbours nor their number change."""
    draw = random.Random(7)
    lines, bad = [], 0
    for number in range(1000):
        stray = draw.random() < 0.1
        bad += stray
        lines.append(f'"prompt {number},{number}' if stray else f'"prompt, {number}",{number}')
    rows, found = read(tmp_path / "p.csv", "\n".join(["prompt,seed", *lines]) + "\n")
    assert (found.rows, found.invalid_rows) == (1000 - bad, bad)
    assert all(row.prompt == f"prompt, {row.seed}" for row in rows)


def test_texts_over_several_lines_stay_whole(tmp_path: Path) -> None:
    """As csv and pandas write them, whatever they hold."""
    texts = ['a,\n"b", 7\nc', "x\ny, 1\nz, 2", "one, two\nthree, four", '"', '""\n""', "a\r\nb", "1\n2\n3"]
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([["prompt", "seed", "negative_prompt"], *([text, 5, "bad\nworse"] for text in texts)])
    rows, found = read(tmp_path / "p.csv", file.getvalue())
    assert said(found)[0] == []
    assert [row.prompt for row in rows] == texts


def test_quotes_without_end_are_refused_whole_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINES_AGAIN", 100)
    with pytest.raises(RequestError, match="too many quotes that are opened and not closed"):
        read(tmp_path / "p.csv", "prompt,seed\n" + '"x\n' * 300)


def test_prose_in_a_tsv_may_hold_quotes(tmp_path: Path) -> None:
    """PartiPrompts' TSV is written so."""
    body = 'Prompt\tCategory\tNote\n"a" sign\tb\tc\n"open\tb\tc\nx\tb\t"q\n"whole"\tb\tc\n'
    rows, found = read(tmp_path / "p.tsv", body, EXTRA)
    assert said(found) == ([], [])
    assert [row.prompt for row in rows] == ['"a" sign', '"open', "x", "whole"]
    assert rows[2].metadata == {"Category": "b", "Note": '"q'}


def test_excels_sep_line_and_decimal_commas_are_read(tmp_path: Path) -> None:
    body = "sep=;\r\nPrompt;Guidance Scale;SEED;Negative prompt\r\na, b;7,5;7,0;\r\nc;5;;null\r\n"
    rows, found = read(tmp_path / "p.csv", body)
    assert said(found) == ([], [])
    assert values(rows[0], "prompt guidance_scale seed") == ["a, b", 7.5, 7]
    assert values(rows[1], "prompt guidance_scale negative_prompt") == ["c", 5.0, None]
    assert said(read(tmp_path / "p.csv", 'prompt,guidance_scale\na,"7,5"\n')[1])[0]  # not beside commas as delimiters


def test_an_index_of_pandas_is_left_out_and_its_nan_is_nothing(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.csv", ",prompt,seed,guidance_scale,negative_prompt\n0,a,1.0,,nan\n1,b,,NaN,\n")
    errors, warnings = said(found)
    assert not errors
    assert values(rows[0], "seed guidance_scale negative_prompt") == [1, 5.0, None]
    assert len(rows) == 2
    assert warnings == [
        "line 2 (and 1 more): a first column without a name and with numbers is left out",
        "line 2: negative_prompt: NaN, which pandas writes where nothing is, is read as nothing",
        "line 3: guidance_scale: NaN, which pandas writes where nothing is, is read as nothing",
    ]


def test_columns_that_are_no_fields_go_where_one_says(tmp_path: Path) -> None:
    body = "Prompt,Category,metadata.n,seed\na,b,c,1\n"
    [error] = said(read(tmp_path / "p.csv", body)[1])[0]
    assert error.startswith("line 1: Category: unknown column; ")
    assert error.endswith("to keep such columns with the results, as metadata, say --extra-columns metadata")
    [row], found = read(tmp_path / "p.csv", body, EXTRA)
    assert said(found) == ([], [])
    assert row.metadata == {"Category": "b", "n": "c"}


def test_a_table_without_a_header_is_told_so_in_one_error(tmp_path: Path) -> None:
    for body in ("a fox in snow\na bear\n", "a fox,20\na bear,30\n", "# mine\nprompt,steps\na,3\n"):
        [error] = said(read(tmp_path / "p.csv", body)[1])[0]
        assert error.startswith("line 1: no header found: none of the first line's columns is a field")
    rows, found = read(tmp_path / "p.csv", "# mine\nprompt,steps\na,3\n", ReadOptions(comments=True))
    assert (rows[0].steps, said(found)) == (3, ([], []))


def test_a_header_among_the_rows_is_left_out(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.csv", "prompt\na\nprompt\nb\n")
    assert [row.prompt for row in rows] == ["a", "b"]
    assert said(found) == ([], ["line 3: the header once more, which is left out"])


def test_columns_may_be_parted_by_bars(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.csv", "prompt|steps\na, b|3\n")
    assert said(found) == ([], [])
    assert values(rows[0], "prompt steps") == ["a, b", 3]


@pytest.mark.parametrize("fields", [{"seed": 7.0, "steps": None, "guidance_scale": None, "format": None}])
def test_null_and_7_0_are_alike_in_tables_and_objects(tmp_path: Path, fields: dict[str, Any]) -> None:
    import json

    [of_json], found = read(tmp_path / "p.jsonl", json.dumps({"prompt": "a", **fields}))
    assert said(found) == ([], [])
    [of_table], found = read(tmp_path / "p.csv", "prompt,seed,steps,guidance_scale,format\na,7.0,null,NULL,null\n")
    assert said(found) == ([], [])
    assert of_json.model_dump(exclude={"custom_id"}) == of_table.model_dump(exclude={"custom_id"})
    assert (of_json.seed, of_json.steps) == (7, 30)


def test_minus_one_is_a_seed_that_follows_from_the_batch(tmp_path: Path) -> None:
    for name, body in (("p.csv", "prompt,seed\na,-1\n"), ("p.jsonl", '{"prompt": "a", "seed": -1}')):
        [row], found = read(tmp_path / name, body)
        [again], _ = read(tmp_path / name, body)
        assert said(found) == ([], [])
        assert row.seed == again.seed >= 0


def test_other_tools_columns_are_read(tmp_path: Path) -> None:
    body = "prompt,sampler_name,scheduler,cfg,batch_size,restore_faces\na,dpmpp_2m,karras,7,2,true\n"
    [row], found = read(tmp_path / "p.csv", body)
    assert said(found) == ([], ["line 2: restore_faces: ignored: no faces are restored"])
    assert values(row, "guidance_scale num_images") == [7.0, 2]
    assert row.scheduler is not None
    assert row.scheduler.settings["use_karras_sigmas"] is True


def test_quotes_behind_a_blank_are_quotes_where_the_whole_cell_is_in_them(tmp_path: Path) -> None:
    lines = "steps, prompt", '20, "a fox"', '21, "a fox, red"', '22, "hello" she said', '23, "two\nlines"'
    rows, found = read(tmp_path / "p.csv", "\n".join(lines))
    assert said(found) == ([], [])
    assert [row.prompt for row in rows] == ["a fox", "a fox, red", ' "hello" she said', "two\nlines"]
    assert [row.steps for row in rows] == [20, 21, 22, 23]


def test_a_prompt_in_single_quotes_is_said_to_keep_them(tmp_path: Path) -> None:
    rows, found = read(tmp_path / "p.csv", "prompt,seed\n'a fox',1\nit's a fox,2\n")
    assert [row.prompt for row in rows] == ["'a fox'", "it's a fox"]
    assert said(found) == ([], ["line 2: prompt: it is in single quotes, which are part of its prompt"])


@pytest.mark.parametrize("cell", ["12.000", "12,000", "-5.000"])
def test_a_number_that_may_be_two_is_refused(tmp_path: Path, cell: str) -> None:
    rows, found = read(tmp_path / "p.csv", f"prompt;seed\na;{cell}\nb;0.000\nc;1234.000\nd;12.00\n")
    both = f"{cell[:-4]} or {cell.replace('.', '').replace(',', '')}"
    assert said(found)[0] == [f"line 2: seed: {cell} found, which is {both}; a plain number wanted"]
    assert [row.seed for row in rows] == [0, 1234, 12]


def test_numbers_that_objects_have_as_texts_are_those_of_tables(tmp_path: Path) -> None:
    """As `csv.DictReader` and `json.dumps` make them of a table."""
    fields = {"steps": "25", "guidance_scale": "7.5", "seed": " 7.0 ", "num_images": "", "strip_metadata": "yes"}
    rows, found = read(tmp_path / "p.jsonl", json.dumps({"prompt": "a", **fields}))
    assert said(found)[0] == []
    [row] = rows
    assert (row.steps, row.guidance_scale, row.seed, row.num_images) == (25, 7.5, 7, 1)
    assert row.file.strip_metadata
    _, found = read(tmp_path / "p.jsonl", json.dumps({"prompt": "a", "steps": "12.000", "guidance_scale": "7,5"}))
    assert [error.field for error in found.errors] == ["steps", "guidance_scale"]
