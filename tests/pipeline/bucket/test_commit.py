"""An image is committed once, by the PUT of its file, whoever races and whoever dies."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pipeline.bucket.artifacts import Artifacts, sha256
from pipeline.bucket.commit import (
    MAX_METADATA_BYTES,
    commit_failure,
    commit_image,
    committed_failure,
    committed_result,
)
from pipeline.bucket.imagefile import record_in
from pipeline.picture import File, Format
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageResult, failure_of
from pipeline.records.shards import ImageTask
from tests.factories import file_of, image_result, resolved_row

OBJECTS = BatchObjects("b")
TASK = ImageTask(resolved_row(12, num_images=3, negative_prompt=""), 2)
KEY, SIDECAR = "batches/b/images/00000/0000012-002.png", "batches/b/images/00000/0000012-002.json"
THUMBNAIL = "batches/b/thumbnails/00000/0000012-002.jpg"


def _commit(artifacts: Artifacts, shade: int = 0, attempt: int = 1) -> ImageResult:
    result = image_result(TASK, attempt=attempt)
    return commit_image(artifacts, OBJECTS, result, file_of(result, shade))


def test_a_commit_leaves_the_picture_and_what_is_known_about_it(artifacts: Artifacts) -> None:
    stands = _commit(artifacts)
    assert list(artifacts.list("")) == [SIDECAR, KEY, THUMBNAIL]
    body = artifacts.get(KEY) or b""
    assert (stands.sha256, stands.size_bytes) == (sha256(body), len(body))
    assert ImageResult.model_validate_json(artifacts.get(SIDECAR) or b"") == stands
    assert committed_result(artifacts, OBJECTS, TASK) == stands
    assert (stands.seed, stands.negative_prompt) == (TASK.row.seed + 2, "")


def test_whoever_comes_second_takes_what_is_there(artifacts: Artifacts) -> None:
    first = _commit(artifacts, shade=1, attempt=1)
    second = _commit(artifacts, shade=2, attempt=2)
    assert second == first
    assert second.provenance.attempt == 1
    assert sha256(artifacts.get(KEY) or b"") == first.sha256


def test_of_pods_that_race_one_wins_and_all_come_to_the_same_result(artifacts: Artifacts) -> None:
    results: list[ImageResult] = []
    threads = [
        threading.Thread(target=lambda n=number: results.append(_commit(artifacts, n, n + 1))) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.model_dump_json() for result in results}) == 1
    stands = committed_result(artifacts, OBJECTS, TASK)
    assert stands == results[0]
    assert stands is not None
    assert stands.sha256 == sha256(artifacts.get(KEY) or b"")


def test_a_sidecar_alone_is_no_image(artifacts: Artifacts) -> None:
    """It is written first; its pod may have died before the picture."""
    artifacts.put(SIDECAR, image_result(TASK).model_dump_json().encode(), content_type="application/json")
    assert committed_result(artifacts, OBJECTS, TASK) is None


@pytest.mark.parametrize("sidecar", ["of another picture", "missing"])
def test_the_files_own_record_decides_when_the_sidecar_does_not_fit(artifacts: Artifacts, sidecar: str) -> None:
    result = image_result(TASK)
    body = file_of(result).body
    artifacts.put_new(KEY, body, content_type="image/png")
    if sidecar == "of another picture":
        loser = image_result(TASK, attempt=2).model_copy(update={"sha256": "0" * 64, "size_bytes": 1})
        artifacts.put(SIDECAR, loser.model_dump_json().encode(), content_type="application/json")
    expected = result.model_copy(update={"sha256": sha256(body), "size_bytes": len(body)})
    assert committed_result(artifacts, OBJECTS, TASK) == expected
    assert ImageResult.model_validate_json(artifacts.get(SIDECAR) or b"") == expected  # mended


DAMAGED = {
    "text": b"hello",
    "empty": b"",
    "another image of ours": file_of(image_result(ImageTask(TASK.row, 1))).body,
    "cut short": file_of(image_result(TASK)).body[:-200],
    "cut short by a byte": file_of(image_result(TASK)).body[:-1],
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("sidecar", [True, False], ids=["with sidecar", "without"])
def test_what_is_not_whole_or_not_ours_is_no_commit_and_is_put_over(
    artifacts: Artifacts, what: str, sidecar: bool
) -> None:
    if sidecar:
        _commit(artifacts, attempt=1)
    artifacts.put(KEY, DAMAGED[what], content_type="image/png")
    assert committed_result(artifacts, OBJECTS, TASK) is None
    result = _commit(artifacts, attempt=2)
    assert result.provenance.attempt == 2
    assert committed_result(artifacts, OBJECTS, TASK) == result
    assert sha256(artifacts.get(KEY) or b"") == result.sha256


def test_a_failure_is_written_down_and_may_be_written_anew(artifacts: Artifacts) -> None:
    assert committed_failure(artifacts, OBJECTS, TASK) is None
    for message in ("first", "second"):
        commit_failure(artifacts, OBJECTS, failure_of(TASK, FailureCode.BLACK, message, retryable=True))
    failure = committed_failure(artifacts, OBJECTS, TASK)
    assert failure is not None
    assert (failure.message, failure.code, failure.image_id) == ("second", FailureCode.BLACK, "0000012-002")


RECORDLESS = [{"format": "png", "strip_metadata": True}, {"format": "webp", "strip_metadata": True}, {"format": "jpeg"}]


@pytest.mark.parametrize("asked", RECORDLESS)
@pytest.mark.parametrize("sidecar", ["fits", "of another attempt"])
def test_a_file_without_a_record_is_known_by_its_objects_metadata(
    artifacts: Artifacts, asked: dict[str, Any], sidecar: str
) -> None:
    """It was stripped, or its prompt has no room in a JPEG."""
    prompt = "x" * 20_000 if asked["format"] == "jpeg" else "a harbour"
    row = resolved_row(
        12, file=File(**asked), prompt=prompt, negative_prompt=prompt, prompt_2=prompt, negative_prompt_2=prompt
    )
    task = ImageTask(row, 0)
    result = image_result(task, attempt=1)
    file = file_of(result)
    assert record_in(file.body) is None
    stands = commit_image(artifacts, OBJECTS, result, file)
    key = OBJECTS.sidecar(12, 0)
    if sidecar != "fits":
        loser = image_result(task, attempt=2).model_copy(update={"sha256": "0" * 64, "size_bytes": 1})
        artifacts.put(key, loser.model_dump_json().encode(), content_type="application/json")
    assert committed_result(artifacts, OBJECTS, task) == stands
    assert commit_image(artifacts, OBJECTS, image_result(task, attempt=3), file_of(result, 7)) == stands
    assert ImageResult.model_validate_json(artifacts.get(key) or b"") == stands
    assert stands.provenance.attempt == 1


def test_provenance_that_is_too_long_for_an_objects_metadata_stays_in_the_sidecar(artifacts: Artifacts) -> None:
    """S3 refuses more than 2 KiB of metadata, and with it the image."""
    task = ImageTask(resolved_row(12, file=File(strip_metadata=True)), 0)
    result = image_result(task)
    long = result.provenance.model_copy(update={"versions": {"torch": "x" * MAX_METADATA_BYTES}})
    stands = commit_image(artifacts, OBJECTS, result.model_copy(update={"provenance": long}), file_of(result))
    found = artifacts.head(stands.key)
    assert found is not None
    assert sum(len(name) + len(value) for name, value in found.metadata.items()) < MAX_METADATA_BYTES
    assert committed_result(artifacts, OBJECTS, task) == stands
    assert stands.provenance == long


@pytest.mark.parametrize("what", ["text", "a stripped image of another"])
def test_a_file_without_a_record_that_is_not_ours_is_never_taken_for_it(artifacts: Artifacts, what: str) -> None:
    stripped = File(strip_metadata=True)
    task = ImageTask(resolved_row(12, file=stripped), 0)
    result = image_result(task)
    body = file_of(result).body
    artifacts.put(result.key, body if what != "text" else b"hello", content_type="image/png")
    artifacts.put(OBJECTS.sidecar(12, 0), result.model_dump_json().encode(), content_type="application/json")
    assert committed_result(artifacts, OBJECTS, task) is None


def test_a_file_without_a_record_is_ours_by_its_metadata_alone(artifacts: Artifacts) -> None:
    task = ImageTask(resolved_row(12, file=File(strip_metadata=True)), 0)
    result = image_result(task)
    stands = commit_image(artifacts, OBJECTS, result, file_of(result))
    artifacts.delete(OBJECTS.sidecar(12, 0))
    assert committed_result(artifacts, OBJECTS, task) == stands


@pytest.mark.parametrize("seconds", ["-1", "NaN", "Infinity", "1e999", "null"])
def test_an_object_whose_metadata_cannot_be_is_not_ours_and_the_image_replaces_it(
    artifacts: Artifacts, seconds: str
) -> None:
    task = ImageTask(resolved_row(12, file=File(strip_metadata=True)), 0)
    result = image_result(task)
    made = f'{{"seconds": {seconds}, "provenance": {result.provenance.model_dump_json()}}}'
    metadata = {"tessera-image": result.key, "tessera-made": made}
    assert artifacts.put_new(result.key, file_of(result, 7).body, content_type="image/png", metadata=metadata)
    assert committed_result(artifacts, OBJECTS, task) is None
    stands = commit_image(artifacts, OBJECTS, result, file_of(result))
    assert committed_result(artifacts, OBJECTS, task) == stands
    assert sha256(artifacts.get(result.key) or b"") == stands.sha256


@pytest.mark.parametrize(("kind", "suffix"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
def test_a_file_lies_under_its_formats_name_and_type(artifacts: Artifacts, kind: str, suffix: str) -> None:
    task = ImageTask(resolved_row(12, file=File(format=Format(kind))), 0)
    result = image_result(task)
    stands = commit_image(artifacts, OBJECTS, result, file_of(result))
    assert stands.key == f"batches/b/images/00000/0000012-000.{suffix}"
    assert committed_result(artifacts, OBJECTS, task) == stands
    assert file_of(result).content_type == f"image/{kind}"
