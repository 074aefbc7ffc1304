"""Whatever can be wrong with a stored record is one error, which names the record and shows none of its values."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

import pytest
from pydantic import BaseModel

from pipeline.errors import RecordForeign, RecordTooNew, RecordUnreadable, ServiceError
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.records.attempt import Code
from pipeline.records.batch import BatchManifest, JobRecord
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageFailure, ImageResult, failure_of, outcome_lines, parsed_outcomes
from pipeline.records.schedules.schedule import Firing
from pipeline.records.shards import ImageTask, parsed_shard
from pipeline.schema import read_lines, read_record
from tests.factories import batch_record, image_result, job_record, resolved_row

TASK = ImageTask(resolved_row(), 0)
MANIFEST = batch_record().manifest.model_dump_json()
FAILURE = failure_of(TASK, FailureCode.BLACK, "dark", retryable=True)


def but(text: str, **changes: object) -> str:
    return json.dumps(json.loads(text) | changes)


def without(text: str, field: str) -> str:
    return json.dumps({name: value for name, value in json.loads(text).items() if name != field})


class Picture(BaseModel):
    """A kind of record of the tests' own: one value names it, of the other field there are several."""

    kind: Literal["picture"]
    size: Literal["small", "large"]


DAMAGED: dict[str, tuple[type[BaseModel], str | bytes, str]] = {
    "empty": (BatchManifest, b"", "nothing"),
    "only blanks": (BatchManifest, " \n", "nothing"),
    "broken off": (BatchManifest, MANIFEST[:-20], "broken JSON"),
    "more behind it": (BatchManifest, MANIFEST + MANIFEST, "broken JSON"),
    "not UTF-8": (BatchManifest, b'{"id": "\xff"}', "no UTF-8 text"),
    "binary": (BatchManifest, bytes(range(256)), "no UTF-8 text"),
    "zeros": (BatchManifest, bytes(100), "broken JSON"),
    "half a surrogate pair": (BatchManifest, '{"id": "\ud800"}', "no UTF-8 text"),
    "an escaped half of one": (BatchManifest, but(MANIFEST, id="\ud800"), "broken JSON"),
    "deeper than any record": (BatchManifest, b"[" * 100_000, "broken JSON"),
    "a list": (BatchManifest, b"[]", "JSON of a list"),
    "a text": (BatchManifest, b'"batch"', "JSON of a str"),
    "null": (BatchManifest, b"null", "JSON of a NoneType"),
    "another type in a field": (BatchManifest, but(MANIFEST, rows="many"), "1 problem in rows"),
    "a field left out": (BatchManifest, without(MANIFEST, "rows"), "1 problem in rows"),
    "two of them": (BatchManifest, but(MANIFEST, rows="many", images=-1), "2 problems in images, rows"),
    "inside": (JobRecord, but(job_record().model_dump_json(), attempt={"name": 7}), "problems in attempt"),
    "a state that there is not": (JobRecord, but(job_record().model_dump_json(), state="asleep"), "1 problem in state"),
    "a version that is no number": (BatchManifest, but(MANIFEST, schema_version="new"), "1 problem in schema_version"),
    "a value of several": (Picture, '{"kind": "picture", "size": "huge"}', "1 problem in size"),
    "a row that is a text": (ResolvedRow, but(resolved_row().model_dump_json(), row="a tower"), "1 problem in row"),
}


@pytest.mark.parametrize(("kind", "body", "found"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_is_unreadable(kind: type[BaseModel], body: str | bytes, found: str) -> None:
    with pytest.raises(RecordUnreadable, match=r"batches/b/batch\.json cannot be read by this version") as caught:
        read_record(kind, body, what="batches/b/batch.json")
    error = caught.value
    assert type(error) is RecordUnreadable
    assert isinstance(error, ServiceError)
    assert (error.what, error.wanted) == ("batches/b/batch.json", kind.__name__)
    assert found in str(error.found)


FOREIGN: dict[str, tuple[type[BaseModel], str]] = {
    "an empty object": (BatchManifest, "{}"),
    "a manifest for a firing": (Firing, '{"keys": ["a"], "manifest": {}}'),
    "a result for a failure": (ImageFailure, image_result(TASK).model_dump_json()),
    "a failure for a result": (ImageResult, FAILURE.model_dump_json()),
}


@pytest.mark.parametrize(("kind", "body"), FOREIGN.values(), ids=FOREIGN)
def test_a_record_of_another_kind_is_foreign(kind: type[BaseModel], body: str) -> None:
    with pytest.raises(
        RecordForeign, match=f"key cannot be read.*another kind of record found, {kind.__name__} wanted"
    ):
        read_record(kind, body, what="key")


@pytest.mark.parametrize("line", [b"{}", b'{"status":"lost"}', b'{"status":7}', FAILURE.model_dump_json().encode()[:9]])
def test_a_line_of_a_fragment_that_is_no_outcome_is_named_by_its_number(line: bytes) -> None:
    lines = [*outcome_lines([FAILURE]).splitlines(), b"", line]
    outcomes = parsed_outcomes(lines, "fragments/00000.jsonl", BatchObjects("b"))
    assert next(outcomes) == FAILURE
    with pytest.raises(RecordUnreadable, match=r"fragments/00000\.jsonl, line 3 cannot be read"):
        next(outcomes)


def test_a_later_version_is_named_with_the_record() -> None:
    with pytest.raises(RecordTooNew, match=r"batches/b/batch\.json of schema version 3 found") as caught:
        read_record(BatchManifest, but(MANIFEST, schema_version=3), what="batches/b/batch.json")
    assert (caught.value.what, caught.value.found, caught.value.wanted) == ("batches/b/batch.json", 3, 2)


def test_a_later_version_inside_a_record_makes_the_record_too_new() -> None:
    row = json.loads(resolved_row().model_dump_json()) | {"schema_version": 3}
    with pytest.raises(RecordTooNew):
        parsed_shard(json.dumps({"row": row, "start": 0, "stop": 1}).encode())


@pytest.mark.parametrize(
    ("kind", "body", "kept"),
    [
        (BatchManifest, but(MANIFEST, colour="blue"), True),
        (ResolvedRow, but(resolved_row().model_dump_json(), colour="blue"), True),
        (ImageResult, but(image_result(TASK).model_dump_json(), colour="blue"), False),
    ],
    ids=["a manifest keeps it", "a row keeps it", "a result leaves it out"],
)
def test_a_field_that_is_not_known_is_kept_or_left_out_and_never_refused(
    kind: type[BaseModel], body: str, kept: bool
) -> None:
    assert ("colour" in json.loads(read_record(kind, body, what="b").model_dump_json())) is kept


@pytest.mark.parametrize(
    "body",
    [
        but(MANIFEST, rows="a red tower"),
        but(MANIFEST, defaults="a red tower"),
        '{"id": "a red tower',
        '{"prompt": "a red tower"}',
        '"a red tower"',
    ],
)
def test_no_value_of_a_record_stands_in_the_error_or_behind_it(body: str) -> None:
    with pytest.raises(RecordUnreadable) as caught:
        read_record(BatchManifest, body, what="b")
    assert "red tower" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("form", [str, str.encode])
def test_texts_and_bytes_are_read_alike(form: Callable[[str], str | bytes]) -> None:
    assert read_record(BatchManifest, form(MANIFEST), what="b") == batch_record().manifest


def test_lines_are_read_one_by_one_and_empty_ones_left_out() -> None:
    line = MANIFEST.encode()
    read = read_lines(BatchManifest, iter([line, b"", b" ", line, b"{"]), what="b")
    assert [next(read), next(read)] == [batch_record().manifest] * 2
    with pytest.raises(RecordUnreadable, match="b, line 5 cannot be read"):
        next(read)


@pytest.mark.parametrize("code", ["A", "SOLAR_FLARE_2", "A" * 40])
def test_a_code_of_a_newer_version_keeps_its_name(code: str) -> None:
    assert (Code(code).name, Code(code).value) == (code, code)


@pytest.mark.parametrize("text", ["", "A" * 41, "solar", "2ND", "SOLAR FLARE", "SOLAR\n"])
def test_a_text_that_no_version_writes_is_no_code(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid Code"):
        Code(text)
