"""Reading a batch's outcomes, and bringing them to a folder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.bucket import outcomes
from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.commit import commit_failure, commit_image
from pipeline.bucket.imagefile import image_file
from pipeline.cli.main import _run
from pipeline.errors import DownloadIncomplete, RequestError, StoreUnavailable
from pipeline.outputs.download import OWNER, check_download, download
from pipeline.picture import File, Format
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageFailure, ImageResult, RefusedLine, failure_of, outcome_lines
from pipeline.records.shards import ImageTask
from tests.factories import at, file_of, image_result, resolved_row

OBJECTS = BatchObjects("b")


def _relative(key: str) -> str:
    return key.removeprefix(OBJECTS.root)


def _in(folder: Path, key: str) -> Path:
    return folder / _relative(key)


HOSTILE = '"><script>alert(1)</script>{title}%s'


def _committed(artifacts: Artifacts, count: int = 3) -> list[ImageResult]:
    results = []
    for row in range(count):
        kind = File(format=list(Format)[row % 3])
        result = image_result(ImageTask(resolved_row(row, prompt=HOSTILE, custom_id=HOSTILE, file=kind), 0))
        results.append(commit_image(artifacts, OBJECTS, result, file_of(result, row)))
    return results


def _failed(row: int, message: str = "why") -> ImageFailure:
    return failure_of(ImageTask(resolved_row(row), 0), FailureCode.BLACK, message, retryable=True)


def _finalized(artifacts: Artifacts, results: list[ImageResult], failures: list[ImageFailure]) -> None:
    refused = RefusedLine(line=2, field="width", message="no").model_dump_json().encode() + b"\n"
    for key, body in ((OBJECTS.results, outcome_lines(results)), (OBJECTS.errors, refused + outcome_lines(failures))):
        artifacts.put(key, body, content_type="application/x-ndjson")


def test_a_running_batch_shows_the_images_that_are_there_in_order(artifacts: Artifacts) -> None:
    results = _committed(artifacts)
    announced = image_result(ImageTask(resolved_row(3), 0))  # a sidecar whose picture is not there
    artifacts.put(OBJECTS.sidecar(3, 0), announced.model_dump_json().encode(), content_type="application/json")
    commit_failure(artifacts, OBJECTS, _failed(4))
    assert list(outcomes.results(artifacts, OBJECTS)) == results
    assert list(outcomes.failures(artifacts, OBJECTS)) == [_failed(4)]


def test_a_finalized_batch_shows_its_results_and_failures_but_rows_left_out_are_no_images(
    artifacts: Artifacts,
) -> None:
    results = _committed(artifacts)
    failures = [_failed(7, message='"status":"invalid"')]
    _finalized(artifacts, results, failures)
    assert list(outcomes.results(artifacts, OBJECTS)) == results
    assert list(outcomes.failures(artifacts, OBJECTS)) == failures


def test_an_unknown_batch_has_neither(artifacts: Artifacts) -> None:
    assert list(outcomes.results(artifacts, OBJECTS)) == []
    assert list(outcomes.failures(artifacts, OBJECTS)) == []


def test_a_picture_that_is_gone_or_damaged_is_an_error_and_not_a_picture(artifacts: Artifacts) -> None:
    [result] = _committed(artifacts, 1)
    assert outcomes.image_bytes(artifacts, result) == artifacts.get(result.key)
    artifacts.put(result.key, b"damaged", content_type="image/png")
    with pytest.raises(StoreUnavailable, match="does not have the digest that was recorded"):
        outcomes.image_bytes(artifacts, result)
    with pytest.raises(StoreUnavailable, match=r"is not in .* any more"):
        outcomes.image_bytes(artifacts, result.model_copy(update={"key": OBJECTS.image(9, 0, Format.PNG)}))
    artifacts.put(result.key, b"0" * (result.size_bytes + 1), content_type="image/png")
    assert outcomes.image_if_there(artifacts, result) is None


@pytest.mark.parametrize("finalized", [False, True])
def test_a_download_brings_everything_as_it_lies_in_the_bucket(
    artifacts: Artifacts, tmp_path: Path, finalized: bool
) -> None:
    results = _committed(artifacts, 20)
    commit_failure(artifacts, OBJECTS, _failed(20))
    if finalized:
        _finalized(artifacts, results, [_failed(20)])
    seen: list[ImageResult] = []
    page = download(artifacts, "b", tmp_path / "out", seen.append)
    assert sorted(seen, key=lambda result: result.index) == results
    for result in results:
        file = tmp_path / "out" / result.key.removeprefix("batches/b/")
        assert file.read_bytes() == artifacts.get(result.key)
    assert (tmp_path / "out" / "results.jsonl").exists() == finalized
    assert page == tmp_path / "out" / "gallery" / "index.html"
    text = page.read_text()
    assert text.count("<img ") == 20
    assert text.count("E_BLACK") == 1
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_download_that_broke_off_goes_on_and_mends_what_is_damaged(artifacts: Artifacts, tmp_path: Path) -> None:
    results = _committed(artifacts, 3)
    download(artifacts, "b", tmp_path)
    files = [tmp_path / result.key.removeprefix("batches/b/") for result in results]
    kept = files[0].stat().st_mtime_ns
    files[1].write_bytes(b"half")
    files[2].unlink()
    download(artifacts, "b", tmp_path)
    assert files[0].stat().st_mtime_ns == kept
    assert [file.read_bytes() for file in files] == [artifacts.get(result.key) for result in results]


@pytest.mark.parametrize("damage", [b"damaged", b"0" * 100_000])
def test_a_damaged_picture_costs_itself_and_is_named(artifacts: Artifacts, tmp_path: Path, damage: bytes) -> None:
    results = _committed(artifacts, 3)
    artifacts.put(results[1].key, damage, content_type="image/png")
    _finalized(artifacts, results, [])
    seen: list[ImageResult] = []
    with pytest.raises(DownloadIncomplete, match=rf"1 file could.*\n.*{results[1].key}.* does not have the digest"):
        download(artifacts, "b", tmp_path, seen.append)
    assert sorted(seen, key=lambda result: result.index) == [results[0], results[2]]
    assert not _in(tmp_path, results[1].key).exists()
    text = (tmp_path / "gallery" / "index.html").read_text()
    assert [_relative(one.key) in text for one in results] == [True, False, True]


def test_a_folder_shows_its_pictures_small_also_one_whose_thumbnail_is_gone(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    for result in _committed(artifacts, 2):
        small = tmp_path / (result.thumbnail or "").removeprefix("batches/b/")
        if result.row:
            artifacts.delete(result.thumbnail or "")
        text = download(artifacts, "b", tmp_path).read_text()
        assert f'src="../{small.relative_to(tmp_path)}"' in text
        with Image.open(small) as image:
            assert (image.format, image.size) == ("JPEG", (64, 64))


def _small_colour(page: Path, result: ImageResult) -> tuple[int, ...]:
    with Image.open(_in(page.parent.parent, result.thumbnail or "")) as small:
        colour = small.convert("RGB").getpixel((32, 32))
    assert isinstance(colour, tuple)
    return tuple(round(value / 255) for value in colour)


def _painted(artifacts: Artifacts, colour: str) -> ImageResult:
    result = image_result(ImageTask(resolved_row(0), 0))
    pixels = np.asarray(Image.new("RGB", (64, 64), colour))
    file = image_file(pixels, result)
    for key in (result.key, result.thumbnail or "", OBJECTS.sidecar(0, 0)):
        artifacts.delete(key)
    return commit_image(artifacts, OBJECTS, result, file)


def test_the_thumbnail_of_a_picture_that_is_replaced_is_replaced_with_it(artifacts: Artifacts, tmp_path: Path) -> None:
    for colour, shown in (("#ff0000", (1, 0, 0)), ("#0000ff", (0, 0, 1))):
        result = _painted(artifacts, colour)
        assert _small_colour(download(artifacts, "b", tmp_path), result) == shown


def test_a_thumbnail_that_shows_nothing_is_made_of_its_picture(artifacts: Artifacts, tmp_path: Path) -> None:
    result = _painted(artifacts, "#00ff00")
    artifacts.put(result.thumbnail or "", b"damaged", content_type="image/jpeg")
    assert _small_colour(download(artifacts, "b", tmp_path), result) == (0, 1, 0)
    assert Image.open(io.BytesIO(outcomes.thumbnail_bytes(artifacts, result))).format == "PNG"


def test_a_batch_under_the_id_of_a_purged_one_does_not_replace_its_pictures(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    first = _painted(artifacts, "#ff0000")
    download(artifacts, "b", tmp_path, accepted_at=at(0))
    kept = _in(tmp_path, first.key).read_bytes()
    _painted(artifacts, "#0000ff")
    with pytest.raises(RequestError, match="holds batch 'b' as it was before its purge, not 'b': choose another"):
        download(artifacts, "b", tmp_path, accepted_at=at(9))
    assert _in(tmp_path, first.key).read_bytes() == kept
    download(artifacts, "b", tmp_path, overwrite=True, accepted_at=at(9))
    assert _in(tmp_path, first.key).read_bytes() != kept


def test_a_folder_that_an_earlier_version_claimed_is_still_the_batchs(artifacts: Artifacts, tmp_path: Path) -> None:
    _painted(artifacts, "#ff0000")
    download(artifacts, "b", tmp_path)  # as it did: by the id alone
    download(artifacts, "b", tmp_path, accepted_at=at(9))
    assert (tmp_path / OWNER).read_text() == f"b\n{at(9).isoformat()}\n"


def test_a_folder_of_another_batch_is_refused_before_a_new_one_is_submitted(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _painted(artifacts, "#ff0000")
    download(artifacts, "b", tmp_path)
    check_download(tmp_path, "b")
    check_download(tmp_path / "new", None)
    with pytest.raises(RequestError, match="holds batch 'b': choose another folder"):
        check_download(tmp_path, None)
    assert _run(["submit", "prompts.jsonl", "-o", str(tmp_path)]) == 2
    assert "holds batch 'b': choose another folder" in capsys.readouterr().err


def test_results_take_their_name_when_all_pictures_are_there(artifacts: Artifacts, tmp_path: Path) -> None:
    results = _committed(artifacts, 3)
    _finalized(artifacts, results, [])
    body = artifacts.get(results[2].key) or b""
    artifacts.delete(results[2].key)
    with pytest.raises(DownloadIncomplete, match="is not in"):
        download(artifacts, "b", tmp_path)
    assert not (tmp_path / "results.jsonl").exists()
    artifacts.put(results[2].key, body, content_type="image/webp")
    download(artifacts, "b", tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == artifacts.get(OBJECTS.results)
    assert (tmp_path / "errors.jsonl").is_file()
    assert not list(tmp_path.rglob("*.part"))


def test_the_pages_of_a_folder_are_in_the_order_of_the_rows(artifacts: Artifacts, tmp_path: Path) -> None:
    results = _committed(artifacts, 4)
    _finalized(artifacts, [results[0], results[3]], [_failed(1), _failed(2)])
    text = download(artifacts, "b", tmp_path).read_text()
    assert [piece[:8] for piece in text.split("<figure")[1:]] == ["><a href", ' class="', ' class="', "><a href"]
