"""Which jobs are long enough for fused kernels."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from triton import knobs

from distri.layers.kernels import cache
from distri.layers.kernels.start import RECORD, StartTimes, measured_start, note_start
from distri.ranks.mesh import Layout
from distri.run.kernels_pay import COMPILE_S, START_S, kernels_pay, saved_s, start_s
from pipeline.records.shards import ImageTask
from tests.factories import resolved_row


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation that came without compiled kernels, and where Triton keeps those that it compiles."""
    monkeypatch.setattr(cache, "COMPILED", tmp_path / "none")
    kept, knobs.cache.dir = knobs.cache.dir, str(tmp_path)
    yield tmp_path
    knobs.cache.dir = kept


GPU = "NVIDIA H200"


def job(images: int, side: int, steps: int) -> list[ImageTask]:
    row = resolved_row(0, width=side, height=side, steps=steps, num_images=images)
    return [ImageTask(row, number) for number in range(images)]


def test_one_small_image_pays_for_nothing() -> None:
    assert not kernels_pay(job(1, 1024, 20), Layout(1, 1, 1), GPU)
    assert not kernels_pay(job(1, 1024, 20), Layout(1, 2, 4), GPU)


def test_a_long_job_pays_for_compiling_and_a_shorter_one_if_that_is_done(folder: Path) -> None:
    one, eight = Layout(1, 1, 1), Layout(1, 2, 4)
    assert kernels_pay(job(100, 1024, 20), one, GPU)
    assert not kernels_pay(job(100, 1024, 20), eight, GPU)
    assert kernels_pay(job(5, 3840, 50), eight, GPU) is False
    (folder / "key").mkdir()
    (folder / "key" / "kernel.cubin").touch()
    assert kernels_pay(job(5, 3840, 50), eight, GPU)
    assert not kernels_pay(job(10, 1024, 20), eight, GPU)


def test_what_is_saved_follows_the_measured_evaluations() -> None:
    """A tenth of 42 ms, 190 ms and 1166 ms."""
    for side, evaluation_s in ((1024, 0.0417), (2048, 0.190), (3840, 1.166)):
        [task] = job(1, side, 1)
        assert saved_s(task) == pytest.approx(evaluation_s / 10, rel=0.2)


def test_what_a_start_took_is_kept_beside_the_kernels_and_decides_for_the_next_job(folder: Path) -> None:
    assert start_s(GPU) == START_S + COMPILE_S
    note_start(GPU, 11.0, cold=True)
    assert start_s(GPU) == 11.0
    (folder / "key").mkdir()
    (folder / "key" / "kernel.cubin").touch()
    assert start_s(GPU) == START_S  # nothing is compiled any more, and nobody has seen how long the rest takes
    note_start(GPU, 0.1, cold=False)
    assert measured_start(GPU) == StartTimes(cold_s=11.0, warm_s=0.1)
    assert kernels_pay(job(10, 1024, 20), Layout(1, 2, 4), GPU)
    assert start_s("NVIDIA L4") == START_S


@pytest.mark.parametrize("text", ["", "[]", "{", '{"NVIDIA H200": 3}'])
def test_a_record_that_cannot_be_read_is_none(folder: Path, text: str) -> None:
    (folder / RECORD).write_text(text)
    assert measured_start(GPU) == StartTimes()
    note_start(GPU, 3.0, cold=False)
    assert measured_start(GPU) == StartTimes(warm_s=3.0)


def test_a_folder_that_cannot_be_written_to_keeps_nothing(folder: Path) -> None:
    knobs.cache.dir = str(folder / "none" / "of it")
    note_start(GPU, 3.0, cold=False)
    assert measured_start(GPU) == StartTimes()
