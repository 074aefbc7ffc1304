"""Rendering in less memory, and running out of it."""

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.engine.memory import LiveBytes
from distri.engine import EngineSettings
from distri.model.image import Evaluations, ImageSpec, Rendered
from distri.model.passes.stages import Highres
from distri.ranks.errors import OutOfMemory
from distri.sampling.control import Control
from tests.distri import on_ranks, reference
from tests.distri.pool import Ranks

FAST = EngineSettings(warmup=1, native_px=128)
PLAIN = ImageSpec("a cat", "blurry", seed=7, width=208, height=152, steps=3, guidance_scale=5.0)
IMAGES = [
    PLAIN,
    replace(PLAIN, guidance_scale=1.0),
    replace(PLAIN, guidance_rescale=0.5, scheduler="EulerAncestralDiscreteScheduler"),
]


def _render(model_dir: Path, layout: str) -> tuple[list[Rendered], int, bool]:
    """Images rendered in low memory, the buffers then, and whether an image before and after is the same."""
    engine = on_ranks.engine(model_dir, layout, FAST)
    before = engine.render(PLAIN, control=lambda: Control.GO)
    renders = [engine.render(image, control=lambda: Control.GO, low_memory=True) for image in IMAGES]
    buffers = engine.buffer_bytes
    after = engine.render(PLAIN, control=lambda: Control.GO)
    same = before.pixels is None or (after.pixels is not None and np.array_equal(before.pixels, after.pixels))
    return renders, buffers, same


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3"), (4, "1x2x2")])
def test_a_picture_in_low_memory_is_that_of_plain_diffusers_and_its_neighbours_do_not_notice(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    for rank, (renders, buffers, same) in enumerate(ranks(count).run(_render, model_dir, layout)):
        assert (buffers, same) == (0, True)
        for image, found in zip(IMAGES, renders, strict=True):
            assert found.evaluations == Evaluations(synchronous=3, displaced=0)
            if rank == 0:
                _, wanted = reference.render(model_dir, image)
                assert np.abs(found.pixels - wanted * 255).max() < 1


def _peaks(model_dir: Path, layout: str) -> tuple[int, int]:
    """Most bytes alive at once while an image is denoised, as usual and in low memory; decoding is the same in both."""
    engine = on_ranks.engine(model_dir, layout, FAST)
    image = replace(PLAIN, width=512, height=512, highres=Highres())
    peaks = []
    for low_memory in (False, True):
        counter = LiveBytes()
        with counter, pytest.raises(_Denoised):
            engine.render(image, control=lambda: Control.GO, low_memory=low_memory, on_final_latent=_end)
        peaks.append(counter.peak)
    return peaks[0], peaks[1]


class _Denoised(Exception):
    pass


def _end(_: object) -> None:
    raise _Denoised


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x1x2"), (2, "1x2x1"), (3, "1x1x3")])
def test_denoising_in_low_memory_takes_less_memory_on_every_rank(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    for usual, low in ranks(count).run(_peaks, model_dir, layout):
        assert low < 0.75 * usual


def _runs_out(model_dir: Path) -> tuple[str, bool]:
    """What an image that does not fit raises, and whether a smaller one is then rendered."""
    engine = on_ranks.engine(model_dir, "1x1x1", FAST)
    engine.render(PLAIN, control=lambda: Control.GO)
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + (160 << 20), before[1]))
    try:
        with pytest.raises(OutOfMemory) as caught:
            engine.render(replace(PLAIN, width=1536, height=1536, steps=1), control=lambda: Control.GO)
        small = engine.render(PLAIN, control=lambda: Control.GO)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return str(caught.value), small.finite


def test_running_out_of_memory_has_one_name(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    [(message, small)] = ranks(1).run(_runs_out, model_dir)
    assert "memory" in message
    assert small
