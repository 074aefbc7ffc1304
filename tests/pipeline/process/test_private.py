"""Files of the data folder are their owner's alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from pipeline.process.private import open_log, private_folder, tighten


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return path.lstat().st_mode & 0o777


@pytest.mark.usefixtures("umask")
def test_what_is_made_is_private_whatever_the_umask(tmp_path: Path) -> None:
    private_folder(tmp_path / "a" / "b" / "c")
    for _ in range(2):
        with open_log(tmp_path / "a" / "log") as log:
            log.write(b"line\n")
    assert [_mode(tmp_path / name) for name in ("a", "a/b", "a/b/c", "a/log")] == [0o700, 0o700, 0o700, 0o600]
    assert (tmp_path / "a" / "log").read_bytes() == b"line\nline\n"
    private_folder(tmp_path / "a" / "b")  # there already


def test_what_others_could_read_is_tightened_and_counted_and_links_are_not_followed(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    (data / "s3").mkdir(parents=True)
    outside.mkdir()
    for path, mode in (
        (data / "open", 0o644),
        (data / "s3" / "program", 0o755),
        (data / "own", 0o600),
        (outside / "x", 0o644),
    ):
        path.touch()
        path.chmod(mode)
    for path in (data, data / "s3", outside):
        path.chmod(0o755)
    (data / "link").symlink_to(outside)
    (data / "s3" / "dangling").symlink_to("nowhere")
    assert tighten(data) == 4
    found = {name: _mode(data / name) for name in (".", "s3", "open", "s3/program", "own")}
    assert found == {".": 0o700, "s3": 0o700, "open": 0o600, "s3/program": 0o700, "own": 0o600}
    assert (_mode(outside), _mode(outside / "x")) == (0o755, 0o644)
    assert tighten(data) == 0


def test_a_data_folder_that_cannot_be_made_says_which_setting_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file/data cannot be made: .*; set TESSERA_DATA_DIR"):
        private_folder(tmp_path / "file" / "data")
