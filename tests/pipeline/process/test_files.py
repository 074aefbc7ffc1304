"""A file is whole or not there, whatever happens to its writer."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.process.files import unfinished, whole_file, write_private, write_whole

Write = Callable[[Path, str], None]


def _large(target: Path, text: str) -> None:
    with whole_file(target) as file:
        file.write(text.encode())


def _small(target: Path, text: str) -> None:
    write_whole(target, text.encode())


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _fail_half_way(target: Path) -> None:
    with whole_file(target) as file:
        file.write(b"half")
        raise ZeroDivisionError


WRITERS = pytest.mark.parametrize("write", [_large, _small, write_private])

# Writes a little, says so, and waits to be killed before the file has its name.
_KILLED = {
    "large": """
from pipeline.process.files import whole_file
with whole_file(target) as file:
    file.write(b"half")
    file.flush()
    wait()
""",
    "small": """
from pipeline.process import files
files.Path.replace = lambda *_: wait()
files.write_whole(target, b"half")
""",
    "private": """
from pipeline.process import files
files.Path.replace = lambda *_: wait()
files.write_private(target, "half")
""",
}


@WRITERS
def test_a_file_gets_its_content_and_nothing_is_left_beside_it(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "file", "content")
    assert (tmp_path / "file").read_text() == "content"
    assert _names(tmp_path) == ["file"]


@WRITERS
def test_a_target_that_exists_is_replaced_and_not_written_to(write: Write, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("a much longer old content")
    with target.open() as reader:
        write(target, "new")
        assert reader.read() == "a much longer old content"
    assert target.read_text() == "new"


@pytest.mark.parametrize("kind", _KILLED)
def test_a_writer_that_is_killed_in_between_leaves_the_old_content(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    program = (
        "import sys, time\nfrom pathlib import Path\ntarget = Path(sys.argv[1])\n"
        "def wait():\n    print('written', flush=True)\n    time.sleep(60)\n" + _KILLED[kind]
    )
    command = [sys.executable, "-P", "-c", program, str(target)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.send_signal(signal.SIGKILL)
    assert target.read_text() == "old"
    _large(target, "new")  # also over the unfinished file of the writer that was killed
    assert target.read_text() == "new"
    assert not list(tmp_path.glob("*.part"))


def test_a_block_that_raises_leaves_the_old_content_and_no_unfinished_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _fail_half_way(target)
    assert target.read_text() == "old"
    assert _names(tmp_path) == ["file"]


@WRITERS
def test_a_write_that_cannot_be_finished_leaves_nothing(write: Write, tmp_path: Path) -> None:
    (tmp_path / "file" / "full").mkdir(parents=True)  # a file cannot take a folder's name
    with pytest.raises(OSError, match="directory"):
        write(tmp_path / "file", "content")
    assert _names(tmp_path) == ["file"]


def test_modes_are_private_where_they_should_be_and_the_umask_elsewhere(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        (tmp_path / "private").touch(mode=0o644)
        write_private(tmp_path / "private", "secret")
        _small(tmp_path / "small", "")
        _large(tmp_path / "large", "")
        half = unfinished(tmp_path / "half", b"secret")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "small": 0o644, "large": 0o644, half.name: 0o600}


def test_an_unfinished_file_can_be_linked_into_place_once(tmp_path: Path) -> None:
    target = tmp_path / "file"
    for content in (b"first", b"second"):
        half = unfinished(target, content)
        if content == b"first":
            target.hardlink_to(half)
        else:
            with pytest.raises(FileExistsError):
                target.hardlink_to(half)
        half.unlink()
    assert target.read_bytes() == b"first"


@WRITERS
def test_an_error_names_the_file_that_was_wanted(write: Write, tmp_path: Path) -> None:
    (tmp_path / "hero.png").mkdir()
    with pytest.raises(OSError, match="hero") as refused:
        write(tmp_path / "hero.png", "x")
    assert refused.value.filename == str(tmp_path / "hero.png")
    assert _names(tmp_path) == ["hero.png"]


@WRITERS
def test_a_disk_that_takes_no_change_is_named_by_its_first_error(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    (tmp_path / "hero.png").mkdir()
    with pytest.raises(OSError, match="directory") as refused:
        write(tmp_path / "hero.png", "x")
    assert refused.value.filename == str(tmp_path / "hero.png")
