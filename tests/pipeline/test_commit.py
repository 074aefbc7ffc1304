"""An image is committed once, by the PUT of its file, whoever races and whoever dies."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pipeline.artifacts import Artifacts, sha256
from pipeline.commit import (
    ForeignObject,
    commit_failure,
    commit_image,
    committed_failure,
    committed_result,
)
from pipeline.imagefile import record_in
from pipeline.objects import BatchObjects
from pipeline.results import FailureCode, ImageResult, failure_of
from pipeline.shards import ImageTask
from tests.factories import image_result, png, resolved_row

OBJECTS = BatchObjects("b")
TASK = ImageTask(resolved_row(12, num_images=3, negative_prompt=""), 2)
KEY, SIDECAR = "batches/b/images/00000/0000012-002.png", "batches/b/images/00000/0000012-002.json"


def _commit(artifacts: Artifacts, shade: int = 0, attempt: int = 1) -> ImageResult:
    result = image_result(TASK, attempt=attempt)
    return commit_image(artifacts, OBJECTS, result, png(result, shade))


def test_a_commit_leaves_the_picture_and_what_is_known_about_it(artifacts: Artifacts) -> None:
    stands = _commit(artifacts)
    assert list(artifacts.list("")) == [SIDECAR, KEY]
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
    body = png(result)
    artifacts.put_new(KEY, body, content_type="image/png")
    if sidecar == "of another picture":
        loser = image_result(TASK, attempt=2).model_copy(update={"sha256": "0" * 64, "size_bytes": 1})
        artifacts.put(SIDECAR, loser.model_dump_json().encode(), content_type="application/json")
    expected = result.model_copy(update={"sha256": sha256(body), "size_bytes": len(body)})
    assert committed_result(artifacts, OBJECTS, TASK) == expected
    assert ImageResult.model_validate_json(artifacts.get(SIDECAR) or b"") == expected  # mended


@pytest.mark.parametrize("what", ["text", "empty", "another image of ours", "cut short"])
def test_something_else_in_the_pictures_place_is_never_taken_for_it(artifacts: Artifacts, what: str) -> None:
    other = ImageTask(TASK.row, 1)
    bodies: dict[str, bytes] = {
        "text": b"hello",
        "empty": b"",
        "another image of ours": png(image_result(other)),
        "cut short": png(image_result(TASK))[:-200],
    }
    artifacts.put(KEY, bodies[what], content_type="image/png")
    with pytest.raises(ForeignObject, match=r"0000012-002\.png holds something that Tessera did not write"):
        _commit(artifacts)
    with pytest.raises(ForeignObject):
        committed_result(artifacts, OBJECTS, TASK)
    assert artifacts.get(KEY) == bodies[what]


def test_a_failure_is_written_down_and_may_be_written_anew(artifacts: Artifacts) -> None:
    assert committed_failure(artifacts, OBJECTS, TASK) is None
    for message in ("first", "second"):
        commit_failure(artifacts, OBJECTS, failure_of(TASK, FailureCode.BLACK, message, retryable=True))
    failure = committed_failure(artifacts, OBJECTS, TASK)
    assert failure is not None
    assert (failure.message, failure.code, failure.image_id) == ("second", FailureCode.BLACK, "0000012-002")


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": 'ü "quoted"\nsecond line \u2028 日本'},
        {"prompt": "x" * 20_000, "negative_prompt": "y" * 20_000},
        {"negative_prompt": ""},
        {"metadata": {"a": None, "b": 1.5, "c": True, "d": "\x00"}},
        {"custom_id": "<script>"},
    ],
)
def test_the_file_carries_everything_that_is_known_of_the_image(changes: dict[str, Any]) -> None:
    result = image_result(ImageTask(resolved_row(**changes), 0))
    found = record_in(png(result))
    assert found == result
    assert found is not None
    assert found.negative_prompt == changes.get("negative_prompt")


def test_the_file_is_the_pixels_and_reads_in_any_gallery() -> None:
    import io

    import numpy as np
    from PIL import Image

    result = image_result(ImageTask(resolved_row(width=64, height=72, negative_prompt="blur"), 0))
    with Image.open(io.BytesIO(png(result, shade=3))) as image:
        pixels = np.asarray(image)
        text = image.text["parameters"]  # type: ignore[attr-defined]  # PNG images have it
    assert pixels.shape == (72, 64, 3)
    assert pixels[:, 0, 0].tolist() == list(range(3, 75))
    assert text.splitlines() == [
        "a harbour",
        "Negative prompt: blur",
        "Steps: 2, CFG scale: 5, Seed: 100, Size: 64x72, Model: demo, Version: tessera 0",
    ]


@pytest.mark.parametrize("body", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"])
def test_what_is_no_picture_of_ours_has_no_record(body: bytes) -> None:
    assert record_in(body) is None
