"""Compiling for a GPU that is not there, and finding what was compiled."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from triton import knobs

from distri.layers.kernels import cache
from distri.layers.kernels.cache import ImageCache, any_compiled, use_cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Triton keeps kernels; the image came with none yet."""
    monkeypatch.setattr(cache, "COMPILED", tmp_path / "image")
    kept = knobs.cache.dir, knobs.cache.manager_class
    knobs.cache.dir = str(tmp_path / "kept")
    yield tmp_path / "kept"
    knobs.cache.dir, knobs.cache.manager_class = kept


def test_all_kernels_compile_for_an_h100_without_one_and_spill_nothing(folder: Path) -> None:
    """What the interpreter cannot show: that the compiler takes them, reads 16 bytes at once, and needs no stack."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "distri.layers.kernels.compile", "--architecture", "90", "--ranks", "2"]
    done = subprocess.run(
        [*command, "--folder", folder], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert any(folder.rglob("cuda_utils*.so"))  # Triton's binding to the driver
    kernels = {"_channel_moments", "_group_moments", "_scale", "_gate", "_image_moments", "_softmax", "_sum"}
    assert {path.stem for path in folder.rglob("*.ptx")} == kernels
    for path in folder.rglob("*.ptx"):
        program = path.read_text()
        assert ".local" not in program
        if path.stem in ("_channel_moments", "_scale", "_gate", "_sum"):
            assert "ld.global.v4.b32" in program
            assert "ld.global.b16" not in program
    assert any_compiled()


def test_kernels_of_the_image_are_found_behind_those_of_the_folder(folder: Path) -> None:
    image = cache.COMPILED / "key"
    image.mkdir(parents=True)
    (image / "a.json").write_text("of the image")
    (image / "__grp__a.json").write_text(f'{{"child_paths": {{"a.json": "{image / "a.json"}"}}}}')
    assert not any_compiled()
    (image / "a.cubin").touch()
    assert any_compiled()
    use_cache()
    assert knobs.cache.manager_class is ImageCache
    found = ImageCache("key")
    assert found.get_file("a.json") == str(image / "a.json")
    assert found.get_group("a.json") == {"a.json": str(image / "a.json")}
    own = found.put("own", "a.json")
    assert found.get_file("a.json") == own
    assert found.get_file("b.json") is None
    assert ImageCache("other").get_group("a.json") is None


def test_where_triton_may_not_write_a_temporary_folder_is_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder.touch()  # a file where the folder should be
    use_cache()
    assert knobs.cache.dir.startswith(f"{tmp_path}/tessera-kernels-")
    assert Path(ImageCache("key").put("own", "a.json")).read_text() == "own"
