"""Which jobs are long enough for fused kernels."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from triton import knobs

from distri.layers.kernels import cache
from distri.ranks.mesh import Layout
from distri.run.kernels_pay import kernels_pay, saved_s
from pipeline.records.shards import ImageTask
from tests.factories import resolved_row


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation that came without compiled kernels, and where Triton keeps those that it compiles."""
    monkeypatch.setattr(cache, "COMPILED", tmp_path / "none")
    kept, knobs.cache.dir = knobs.cache.dir, str(tmp_path)
    yield tmp_path
    knobs.cache.dir = kept


def job(images: int, side: int, steps: int) -> list[ImageTask]:
    row = resolved_row(0, width=side, height=side, steps=steps, num_images=images)
    return [ImageTask(row, number) for number in range(images)]


def test_one_small_image_pays_for_nothing() -> None:
    assert not kernels_pay(job(1, 1024, 20), Layout(1, 1, 1))
    assert not kernels_pay(job(1, 1024, 20), Layout(1, 2, 4))


def test_a_long_job_pays_for_compiling_and_a_shorter_one_if_that_is_done(folder: Path) -> None:
    one, eight = Layout(1, 1, 1), Layout(1, 2, 4)
    assert kernels_pay(job(100, 1024, 20), one)
    assert not kernels_pay(job(100, 1024, 20), eight)
    assert kernels_pay(job(5, 3840, 50), eight) is False
    (folder / "key").mkdir()
    (folder / "key" / "kernel.cubin").touch()
    assert kernels_pay(job(5, 3840, 50), eight)
    assert not kernels_pay(job(10, 1024, 20), eight)


def test_what_is_saved_follows_the_measured_evaluations() -> None:
    """A tenth of 42 ms, 190 ms and 1166 ms."""
    for side, evaluation_s in ((1024, 0.0417), (2048, 0.190), (3840, 1.166)):
        [task] = job(1, side, 1)
        assert saved_s(task) == pytest.approx(evaluation_s / 10, rel=0.2)
