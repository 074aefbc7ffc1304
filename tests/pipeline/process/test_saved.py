"""A user's own file: under any name, whole, over no other picture, and where it cannot be, said so."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import FileRefused, RequestError
from pipeline.process.saved import check_folder, save, save_beside


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["Shot 010.png", "Größe.png", "港.png", "a:b?.png", "x" * 240 + ".png"])
def test_a_file_may_have_any_name_and_is_replaced_under_it(tmp_path: Path, name: str) -> None:
    for content in (b"one", b"two"):
        assert save(tmp_path / "New folder" / name, content).read_bytes() == content
    assert _names(tmp_path / "New folder") == [name]


@pytest.mark.parametrize("links", [True, False])
def test_another_file_of_the_name_stays_and_the_same_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(_part: Path, _name: Path) -> None:
            raise OSError(errno.EPERM, "a memory card has none")

        monkeypatch.setattr(os, "link", refuse)
    wanted = tmp_path / "new" / "hero.png"
    saved = [save_beside(wanted, content).name for content in (b"one", b"two", b"one", b"three", b"two")]
    assert saved == ["hero.png", "hero-2.png", "hero.png", "hero-3.png", "hero-2.png"]
    assert [(wanted.parent / name).read_bytes() for name in _names(wanted.parent)] == [b"two", b"three", b"one"]


def test_what_is_no_file_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "hero.png").mkdir()
    (tmp_path / "hero-2.png").symlink_to(tmp_path / "nothing")
    assert save_beside(tmp_path / "hero.png", b"one").name == "hero-3.png"
    for name in ("hero.png", "hero-2.png"):
        with pytest.raises(FileRefused, match="is there that is no file"):
            save(tmp_path / name, b"one")
    assert not (tmp_path / "nothing").exists()


def test_those_who_save_at_the_same_time_each_get_a_name(tmp_path: Path) -> None:
    contents = [str(number).encode() for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda content: save_beside(tmp_path / "hero.png", content), contents))
    assert [path.read_bytes() for path in paths] == contents
    assert len(_names(tmp_path)) == 16


@pytest.mark.parametrize("write", [save, save_beside])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, write: object) -> None:
    assert callable(write)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "hero.png", tmp_path / ("x" * 300 + ".png")):
        with pytest.raises(RequestError, match=r"\.png cannot be written: "):
            write(place, b"one")
    assert _names(tmp_path) == ["file"]


def test_a_folder_is_asked_about_before_there_is_anything_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    check_folder(tmp_path / "new" / "newer")
    check_folder(tmp_path)
    for name in ("file", "file/below", "dangling/below"):
        with pytest.raises(RequestError, match="is no folder"):
            check_folder(tmp_path / name)
    assert _names(tmp_path) == ["dangling", "file"]
