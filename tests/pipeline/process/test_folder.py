"""What is written into a folder stays in it, and harms nothing that is there."""

from __future__ import annotations

import errno
import os
import random
import string
from pathlib import Path

import pytest

from pipeline.errors import FileRefused
from pipeline.process.folder import TargetFolder, checked_name
from tests.hostile_names import HOSTILE_NAMES


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_a_name_that_means_more_than_a_name_is_refused(tmp_path: Path, name: str) -> None:
    folder = TargetFolder(tmp_path / "in")
    with pytest.raises(FileRefused, match="was not written"), folder.write(name, replace=True) as file:
        file.write(b"x")
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


@pytest.mark.parametrize(
    "name", ["images/00000/0000012-000.png", "results.jsonl", "gallery/page-0002.html", "_x", "a.b"]
)
def test_our_own_names_are_taken(name: str) -> None:
    assert checked_name(name) == name


def test_names_at_random_are_refused_or_lie_in_the_folder_and_are_told_apart_whatever_the_case(tmp_path: Path) -> None:
    chance = random.Random(5)
    folder, taken = TargetFolder(tmp_path / "in"), set()
    alphabet = "..//\\a:Z\x00~ -_é1" + string.printable
    for _ in range(5_000):
        name = "".join(chance.choices(alphabet, k=chance.randint(0, 12)))
        try:
            taken.add(checked_name(name))
        except FileRefused:
            continue
        assert (folder.path / name).resolve().is_relative_to(folder.path.resolve())
        assert name == name.lower()
        assert Path(name).as_posix() == name
    assert len(taken) > 50


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = TargetFolder(tmp_path)
    with pytest.raises(TypeError, match="bytes-like"), folder.write("a/x.png", replace=True) as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert list((tmp_path / "a").iterdir()) == []
    with folder.write("a/x.png", replace=True) as file:
        file.write(b"whole")
        assert not (tmp_path / "a" / "x.png").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.png"]
    assert folder.read("a/x.png", 3) == b"who"
    assert folder.read("a/y.png", 3) is None
    assert folder.has_any("a/x.png")
    assert not folder.has_any("b/x.png")


def test_another_file_of_the_name_stays_unless_it_is_equal(tmp_path: Path) -> None:
    folder = TargetFolder(tmp_path)
    (tmp_path / "x").write_bytes(b"mine")
    for content in (b"more", b"longer", b""):
        with pytest.raises(FileRefused, match="other content"), folder.write("x", replace=False) as file:
            file.write(content)
    with folder.write("x", replace=False) as file:
        file.write(b"mine")
    assert (tmp_path / "x").read_bytes() == b"mine"


def test_what_a_killed_writer_left_is_removed_by_the_next_but_not_what_is_being_written(tmp_path: Path) -> None:
    old, young, foreign = (tmp_path / name for name in (".tessera-0.part", ".tessera-1.part", "notes.part"))
    for path in (old, young, foreign):
        path.touch()
    os.utime(old, (0, 0))
    with TargetFolder(tmp_path).write("x", replace=True) as file:
        file.write(b"x")
    assert {path.name for path in tmp_path.iterdir()} == {young.name, foreign.name, "x"}


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with TargetFolder(tmp_path / "link").write("x", replace=False) as file:
        file.write(b"x")
    assert (tmp_path / "disk" / "x").read_bytes() == b"x"


def test_a_full_disk_names_the_file_that_was_wanted(tmp_path: Path) -> None:
    folder = TargetFolder(tmp_path)
    with pytest.raises(OSError, match="No space") as refused, folder.write("hero.png", replace=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert refused.value.filename == str(tmp_path / "hero.png")
    assert list(tmp_path.iterdir()) == []
