"""A bucket that an attacker writes: a download stays in its folder, and a bad record costs itself only."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.bucket import outcomes
from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.commit import commit_image
from pipeline.client.batch import Batch
from pipeline.client.connect import Connection
from pipeline.deployment.settings import Settings
from pipeline.errors import DownloadIncomplete, RecordUnreadable, RequestError
from pipeline.ledger import Ledger
from pipeline.outputs.download import OWNER, download
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import ImageResult, outcome_lines
from pipeline.records.shards import ImageTask
from tests.factories import file_of, image_result, resolved_row
from tests.hostile_names import HOSTILE_NAMES

OBJECTS = BatchObjects("b")
KEY = OBJECTS.root + "images/00000/0000001-000.png"


@pytest.fixture
def three(artifacts: Artifacts) -> list[ImageResult]:
    """Three committed images."""
    results = [image_result(ImageTask(resolved_row(row), 0)) for row in range(3)]
    return [commit_image(artifacts, OBJECTS, result, file_of(result, result.row)) for result in results]


def _changed(result: ImageResult, changes: Mapping[str, Any]) -> bytes:
    return json.dumps({**result.model_dump(mode="json"), **changes}).encode()


def _finalized(artifacts: Artifacts, lines: list[bytes]) -> None:
    body = b"".join(line + b"\n" for line in lines)
    artifacts.put(OBJECTS.results, body, content_type="application/x-ndjson")
    artifacts.put(OBJECTS.errors, b"", content_type="application/x-ndjson")


def _outside(folder: Path) -> dict[str, str | None]:
    """Everything beside a folder, with its content."""
    found = [path for path in folder.parent.rglob("*") if not path.is_relative_to(folder)]
    return {str(path): path.read_text() if path.is_file() else None for path in found}


# What an attacker writes into a line of results.jsonl or a sidecar, besides names: each is refused as that record.
BAD_RECORDS: Mapping[str, Mapping[str, Any]] = {
    "an image of another batch": {"key": KEY.replace("/b/", "/c/"), "thumbnail": None},
    "another image": {"key": OBJECTS.root + "images/00000/0000002-000.png"},
    "another folder": {"key": OBJECTS.root + "gallery/0000001-000.png"},
    "another suffix": {"key": KEY.removesuffix("png") + "html"},
    "the wrong case": {"key": KEY.removesuffix("png") + "PNG"},
    "a batch's own file": {"key": OBJECTS.root + "batch.json"},
    "an id with a path": {"image_id": "../../x"},
    "a negative row": {"row": -1, "index": -1},
    "a row of its own": {"row": 10**400},
    "another thumbnail": {"thumbnail": OBJECTS.root + "images/00000/0000002-000.png"},
    "a terminal escape": {"custom_id": "\x1b]0;evil\x07"},
    "a size of ten terabytes": {"size_bytes": 10**13},
    "a picture of a million by a million": {"width": 10**6, "height": 10**6},
    "no digest": {"sha256": "../../x"},
    "lists where texts belong": {"key": [[[[]]]]},
}


@pytest.mark.parametrize("finalized", [True, False])
def test_a_line_with_a_foreign_key_costs_that_line_and_nothing_outside_is_touched(
    artifacts: Artifacts, three: list[ImageResult], tmp_path: Path, *, finalized: bool
) -> None:
    home, folder = tmp_path / "home", tmp_path / "home" / "renders"
    folder.mkdir(parents=True)
    for name in (".bashrc", "images", "x.png"):
        (home / name).write_text("mine")
    good, bad = [three[0], three[2]], []
    for field in ("key", "thumbnail"):
        for name in [*HOSTILE_NAMES, str(home / ".bashrc"), "../.bashrc", "../../home/.bashrc"]:
            bad += [_changed(three[1], {field: one}) for one in (name, OBJECTS.root + name)]
    bad += [_changed(three[1], changes) for changes in BAD_RECORDS.values()]
    if finalized:
        whole = [line for line in bad if b"\\ud800" not in line]
        _finalized(artifacts, [*outcome_lines(good[:1]).splitlines(), *whole, *outcome_lines(good[1:]).splitlines()])
        expected = len(whole)
    else:
        artifacts.put(OBJECTS.sidecar(1, 0), bad[0], content_type="application/json")
        expected = 1
    before = _outside(folder)
    with pytest.raises(DownloadIncomplete) as incomplete:
        download(artifacts, "b", folder)
    assert _outside(folder) == before
    assert incomplete.value.total == expected
    assert "cannot be read" in incomplete.value.problems[0]
    assert all(problem.isprintable() for problem in incomplete.value.problems)
    images = [path for path in folder.rglob("*") if path.is_file() and path.parts[-3] == "images"]
    assert sorted(path.name for path in images) == ["0000000-000.png", "0000002-000.png"]
    if finalized:
        assert (folder / "results.jsonl").read_bytes() == outcome_lines(good)


@pytest.mark.parametrize("changes", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_record_that_another_wrote_is_unreadable_and_named_with_its_field(changes: Mapping[str, Any]) -> None:
    line = _changed(image_result(ImageTask(resolved_row(1), 0)), changes)
    with pytest.raises(RecordUnreadable, match=r"results\.jsonl, line 1 cannot be read") as unreadable:
        list(outcomes.results_in([line], "results.jsonl", OBJECTS))
    named = {"an image of another batch": "batch", "an id with a path": "number"}
    wanted = [named[name] for name, one in BAD_RECORDS.items() if one is changes and name in named] or list(changes)
    assert wanted[0] in str(unreadable.value.found)


def test_a_sidecar_that_is_of_another_image_or_no_sidecar_at_all_costs_itself(
    artifacts: Artifacts, three: list[ImageResult]
) -> None:
    artifacts.put(OBJECTS.sidecar(0, 0), _changed(three[1], {}), content_type="application/json")
    artifacts.put(OBJECTS.sidecar(2, 0), b"[" * 100_000, content_type="application/json")
    refused: list[RecordUnreadable] = []
    assert list(outcomes.results(artifacts, OBJECTS, refused.append)) == [three[1]]
    assert [error.what for error in refused] == [OBJECTS.sidecar(0, 0), OBJECTS.sidecar(2, 0)]


def test_a_client_leaves_such_records_out_and_says_so(
    settings: Settings, ledger: Ledger, artifacts: Artifacts, three: list[ImageResult]
) -> None:
    good, bad, also_good = outcome_lines(three).splitlines()
    _finalized(artifacts, [good, bad[:-9], also_good])
    artifacts.put(OBJECTS.errors, b"{\n", content_type="application/x-ndjson")
    artifacts.put(OBJECTS.manifest, b"{", content_type="application/json")  # of a batch that Redis does not know
    batch = Batch(Connection(settings, ledger, artifacts), "b")
    with capture_logs() as logs:
        assert [image.result for image in batch.images()] == [three[0], three[2]]
        assert list(batch.errors()) == []
    assert [entry["log_level"] for entry in logs] == ["warning"] * 2
    assert [OBJECTS.results in logs[0]["reason"], OBJECTS.errors in logs[1]["reason"]] == [True, True]


def _link_to(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


IN_THE_WAY: Mapping[str, tuple[str, Callable[[Path], None], str]] = {
    "a folder": ("images/00000/0000001-000.png", Path.mkdir, "a folder"),
    "a named pipe": ("images/00000/0000001-000.png", os.mkfifo, "a named pipe"),
    "a link": ("images/00000/0000001-000.png", _link_to(Path("/etc/hostname")), "a symbolic link"),
    "a link to nothing": ("images/00000/0000001-000.png", _link_to(Path("nowhere")), "a symbolic link"),
    "a linked folder": ("images", _link_to(Path("/tmp")), "a symbolic link"),  # noqa: S108 - any that exists
    "a link where the results go": ("results.jsonl", _link_to(Path("../precious")), "a symbolic link"),
    "a linked gallery": ("gallery", _link_to(Path("..")), "a symbolic link"),
    "a file for a folder": ("thumbnails", Path.touch, "a file"),
}


@pytest.mark.parametrize("case", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_what_is_no_file_is_neither_followed_nor_replaced(
    artifacts: Artifacts,
    three: list[ImageResult],
    tmp_path: Path,
    case: tuple[str, Callable[[Path], None], str],
) -> None:
    name, put, what = case
    _finalized(artifacts, outcome_lines(three).splitlines())
    precious, folder = tmp_path / "precious", tmp_path / "out"
    precious.write_text("mine")
    (folder / name).parent.mkdir(parents=True)
    put(folder / name)
    before = (folder / name).lstat()
    for overwrite in (False, True):
        with pytest.raises(DownloadIncomplete, match=what):
            download(artifacts, "b", folder, overwrite=overwrite)
    after = (folder / name).lstat()
    assert (after.st_ino, stat.S_IFMT(after.st_mode)) == (before.st_ino, stat.S_IFMT(before.st_mode))
    assert precious.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"precious", "out"}
    if not name.startswith("images"):
        assert (folder / "images/00000/0000002-000.png").is_file()


def test_files_that_are_no_earlier_download_stay_unless_they_are_to_be_replaced(
    artifacts: Artifacts, three: list[ImageResult], tmp_path: Path
) -> None:
    _finalized(artifacts, outcome_lines(three).splitlines())
    mine = [tmp_path / name for name in ("images/00000/0000001-000.png", "results.jsonl", "gallery/index.html")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for _again in range(2):
        with pytest.raises(DownloadIncomplete, match=r"0000001-000\.png.*other content is there; .*--overwrite"):
            download(artifacts, "b", tmp_path)
        assert [path.read_text() for path in mine] == ["mine"] * 3
        assert (tmp_path / "images/00000/0000002-000.png").is_file()
    download(artifacts, "b", tmp_path, overwrite=True)
    assert mine[0].read_bytes() == artifacts.get(three[1].key)
    assert mine[1].read_bytes() == outcome_lines(three)


def test_a_folder_that_an_earlier_version_downloaded_becomes_the_batchs_if_nothing_differs(
    artifacts: Artifacts, three: list[ImageResult], tmp_path: Path
) -> None:
    _finalized(artifacts, outcome_lines(three).splitlines())
    download(artifacts, "b", tmp_path)
    (tmp_path / OWNER).unlink()
    download(artifacts, "b", tmp_path)
    assert (tmp_path / OWNER).read_text() == "b\n"


def test_a_folder_of_another_batch_is_refused(artifacts: Artifacts, three: list[ImageResult], tmp_path: Path) -> None:
    _finalized(artifacts, outcome_lines(three).splitlines())
    download(artifacts, "b", tmp_path)
    with pytest.raises(RequestError, match="holds batch 'b', not 'c': choose another folder"):
        download(artifacts, "c", tmp_path)
    assert (tmp_path / "results.jsonl").is_file()
    download(artifacts, "c", tmp_path, overwrite=True)
    assert (tmp_path / OWNER).read_text() == "c\n"


def test_a_folder_that_cannot_be_written_is_named(artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="file cannot be written: "):
        download(artifacts, "b", tmp_path / "file")


def test_a_thumbnail_that_is_too_large_is_made_from_its_image(
    artifacts: Artifacts, three: list[ImageResult], tmp_path: Path
) -> None:
    artifacts.put(three[0].thumbnail or "", b"0" * (2 << 20), content_type="image/jpeg")
    download(artifacts, "b", tmp_path)
    small = tmp_path / "thumbnails/00000/0000000-000.jpg"
    assert small.read_bytes().startswith(b"\xff\xd8\xff")
    assert small.stat().st_size < 100_000
