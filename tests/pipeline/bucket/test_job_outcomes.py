"""The outcomes of a job's images are found by their keys, whatever a list hides and whatever cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.commit import commit_failure, commit_image
from pipeline.bucket.job_outcomes import confirmed_outcomes, known_outcomes, reported_outcomes
from pipeline.bucket.sizes import NEAR_IMAGES
from pipeline.errors import RecordUnreadable
from pipeline.picture import File
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageFailure, ImageResult, failure_of, outcome_lines
from pipeline.records.shards import ImageTask
from tests.counting import counted
from tests.factories import file_of, image_result, resolved_row

OBJECTS = BatchObjects("b")
TASK = ImageTask(resolved_row(12, num_images=3), 2)
TASKS = [ImageTask(resolved_row(row), 0) for row in range(5)]


def _commit(artifacts: Artifacts, task: ImageTask) -> ImageResult:
    result = image_result(task)
    return commit_image(artifacts, OBJECTS, result, file_of(result))


def _fragment(artifacts: Artifacts, body: bytes) -> None:
    artifacts.put(OBJECTS.fragment(0), body, content_type="application/x-ndjson")


def _damage(artifacts: Artifacts, key: str, body: bytes = b'{"status": "succ') -> None:
    artifacts.put(key, body, content_type="application/json")


def _changed(artifacts: Artifacts, where: str, **changes: Any) -> None:
    _damage(artifacts, where, json.dumps(json.loads(artifacts.get(where) or b"") | changes).encode())


def test_a_fragment_is_not_believed_about_a_picture_of_another_size(artifacts: Artifacts) -> None:
    result = _commit(artifacts, TASK)
    _fragment(artifacts, outcome_lines([result]))
    assert known_outcomes(artifacts, OBJECTS, 0, [TASK], by_key=True) == {TASK.index: result}
    artifacts.put(result.key, file_of(result).body[:-200], content_type="image/png")
    assert known_outcomes(artifacts, OBJECTS, 0, [TASK], by_key=True) == {}


@pytest.fixture
def late(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> Artifacts:
    """A store whose lists show nothing yet."""

    def nothing(*_: object, **__: object) -> Iterator[tuple[str, int]]:
        return iter(())

    monkeypatch.setattr(artifacts, "sizes_between", nothing)
    return artifacts


@pytest.mark.parametrize("with_fragment", [True, False])
def test_what_a_late_list_hides_is_found_by_its_key(late: Artifacts, with_fragment: bool) -> None:
    results = {task.index: _commit(late, task) for task in TASKS[:3]}
    failure = failure_of(TASKS[3], FailureCode.BLACK, "dark", retryable=True)
    commit_failure(late, OBJECTS, failure)
    if with_fragment:
        _fragment(late, outcome_lines([*results.values(), failure]))
    assert known_outcomes(late, OBJECTS, 0, TASKS, by_key=True) == results | {3: failure}
    assert known_outcomes(late, OBJECTS, 0, TASKS, by_key=False) == {}


def test_images_that_list_and_fragment_name_cost_no_question_of_their_own(artifacts: Artifacts) -> None:
    results = {task.index: _commit(artifacts, task) for task in TASKS}
    _fragment(artifacts, outcome_lines(results.values()))
    with counted(artifacts) as asked:
        assert known_outcomes(artifacts, OBJECTS, 0, TASKS, by_key=True) == results
    assert asked.calls == {"GetObject": 1, "ListObjectsV2": 1}


NOT_TO_BE_READ: dict[str, Callable[[Artifacts, str], None]] = {
    "broken": _damage,
    "empty": lambda artifacts, key: _damage(artifacts, key, b""),
    "another kind": lambda artifacts, key: _damage(artifacts, key, b"[1]"),
    "too new": lambda artifacts, key: _changed(artifacts, key, schema_version=9),
    "a value of the next version": lambda artifacts, key: _changed(artifacts, key, highres={"mode": "of tomorrow"}),
    "of another image": lambda artifacts, key: _changed(artifacts, key, index=99),
    "of another key": lambda artifacts, key: _changed(artifacts, key, key="../../etc/passwd"),
    "with a thumbnail elsewhere": lambda artifacts, key: _changed(artifacts, key, thumbnail="/etc/passwd"),
}


@pytest.mark.parametrize("damage", NOT_TO_BE_READ.values(), ids=NOT_TO_BE_READ)
@pytest.mark.parametrize("stripped", [False, True], ids=["record in the file", "record in the metadata"])
def test_a_sidecar_that_says_nothing_is_made_again_from_the_picture(
    artifacts: Artifacts, damage: Callable[[Artifacts, str], None], stripped: bool
) -> None:
    task = ImageTask(resolved_row(12, file=File(strip_metadata=stripped)), 0)
    result = _commit(artifacts, task)
    sidecar = OBJECTS.sidecar(12, 0)
    damage(artifacts, sidecar)
    assert known_outcomes(artifacts, OBJECTS, 0, [task], by_key=True) == {task.index: result}
    assert ImageResult.model_validate_json(artifacts.get(sidecar) or b"") == result


@pytest.mark.parametrize("damage", [_damage, lambda artifacts, key: _changed(artifacts, key, index=99)])
def test_a_failure_that_says_nothing_is_no_outcome(
    artifacts: Artifacts, damage: Callable[[Artifacts, str], None]
) -> None:
    commit_failure(artifacts, OBJECTS, failure_of(TASK, FailureCode.BLACK, "dark", retryable=True))
    damage(artifacts, OBJECTS.failure(12, 2))
    assert known_outcomes(artifacts, OBJECTS, 0, [TASK], by_key=True) == {}


def _replaced_by_a_newer_version(artifacts: Artifacts, task: ImageTask) -> bytes:
    """A picture with a record and a sidecar that no version of today can read."""
    result = image_result(task).model_copy(update={"schema_version": 9})
    commit_image(artifacts, OBJECTS, result, file := file_of(result))
    return file.body


def test_a_picture_of_which_nothing_can_be_read_has_an_outcome_and_is_not_replaced(artifacts: Artifacts) -> None:
    body = _replaced_by_a_newer_version(artifacts, TASK)
    [outcome] = known_outcomes(artifacts, OBJECTS, 0, [TASK], by_key=True).values()
    assert isinstance(outcome, ImageFailure)
    assert (outcome.code, outcome.retryable, outcome.index) == (FailureCode.UNREADABLE, True, TASK.index)
    assert "a record of another version" in outcome.message
    with pytest.raises(RecordUnreadable):
        _commit(artifacts, TASK)
    assert artifacts.get(TASK.key(OBJECTS)) == body


def test_lines_of_a_fragment_that_say_nothing_keep_the_others_from_nothing(artifacts: Artifacts) -> None:
    results = {task.index: _commit(artifacts, task) for task in TASKS}
    lines = outcome_lines(results.values()).splitlines()
    _fragment(artifacts, b"\n".join([lines[0], b"\x00\xff", lines[1], lines[2][:-9], b"", *lines[3:]]))
    reported = reported_outcomes(artifacts, OBJECTS, 0)
    assert (set(reported.outcomes), reported.whole) == ({0, 1, 3, 4}, False)
    assert known_outcomes(artifacts, OBJECTS, 0, TASKS, by_key=True) == results
    _fragment(artifacts, outcome_lines(results.values()))
    assert reported_outcomes(artifacts, OBJECTS, 0).whole


@pytest.mark.parametrize(
    "said",
    [{"key": "../elsewhere.png"}, {"row": 7}, {"custom_id": "another"}, {"thumbnail": "/etc/passwd"}, {"number": 1}],
)
def test_a_fragment_is_not_believed_about_what_is_not_its_image(artifacts: Artifacts, said: dict[str, Any]) -> None:
    result = _commit(artifacts, TASK)
    _fragment(artifacts, outcome_lines([result.model_copy(update=said)]))
    assert known_outcomes(artifacts, OBJECTS, 0, [TASK], by_key=True) == {TASK.index: result}


def _tasks_of(rows: Iterable[int]) -> list[ImageTask]:
    """The images of these rows, two a row."""
    of_rows = [resolved_row(row, num_images=2, first_image=2 * row) for row in rows]
    return [ImageTask(row, number) for row in of_rows for number in (0, 1)]


def _put_plainly(artifacts: Artifacts, rows: Iterable[int]) -> dict[int, ImageResult]:
    """Images of two a row of which only the size is right, each with a sidecar; what a fragment would say of them."""
    tasks = _tasks_of(rows)
    for task in tasks:
        artifacts.put(task.key(OBJECTS), b"12345", content_type="image/png")
        artifacts.put(OBJECTS.sidecar(task.row.row, task.number), b"{}", content_type="application/json")
    return {task.index: image_result(task).model_copy(update={"size_bytes": 5}) for task in tasks}


@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize("page", [1000, 3])
def test_images_of_a_job_are_found_however_they_are_scattered(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, page: int, by_key: bool
) -> None:
    monkeypatch.setattr("pipeline.bucket.sizes._LARGEST_PAGE", page)
    rows = [0, 1, 2, 40, 60, 61, 998, 999, 1000, 1001, 3500]
    reported = _put_plainly(artifacts, rows)
    _put_plainly(artifacts, [3, 39, 41, 62, 997, 1002])
    assert confirmed_outcomes(artifacts, OBJECTS, _tasks_of(reversed(rows)), reported, by_key=by_key) == reported
    for gone in (reported[0], reported[81], reported[1998], reported[7001]):
        artifacts.delete(gone.key)
    left = confirmed_outcomes(artifacts, OBJECTS, _tasks_of(rows), reported, by_key=by_key)
    assert reported.keys() - left.keys() == {0, 81, 1998, 7001}


@pytest.mark.parametrize("by_key", [True, False])
def test_what_lies_beside_a_jobs_images_is_not_asked_for(artifacts: Artifacts, by_key: bool) -> None:
    rows = range(30, 34)
    reported = _put_plainly(artifacts, rows)
    with counted(artifacts) as alone:
        assert confirmed_outcomes(artifacts, OBJECTS, _tasks_of(rows), reported, by_key=by_key) == reported
    _put_plainly(artifacts, [*range(10, 30), *range(34, 60)])
    with counted(artifacts) as crowded:
        assert confirmed_outcomes(artifacts, OBJECTS, _tasks_of(rows), reported, by_key=by_key) == reported
    assert alone.calls == crowded.calls == {"ListObjectsV2": 1}
    assert alone.listed <= 16
    assert crowded.listed <= 16 + NEAR_IMAGES
