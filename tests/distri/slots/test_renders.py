"""Images that join and leave while others are denoised: each comes out as it would alone."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import Evaluations, ImageSpec, Rendered, StartPicture
from distri.model.passes.stages import Highres
from distri.model.text.prompts import LongPrompt
from distri.ranks.errors import BadImage, Stopped
from distri.ranks.mesh import Mesh
from distri.ranks.recorder import Replay
from distri.sampling.control import Control
from distri.slots.renders import Renders
from tests.distri import on_ranks
from tests.distri.pool import Ranks
from tests.distri.slots.arrivals import rendered_as_they_arrive

CAT = ImageSpec("a cat", "blurry", seed=7, width=64, height=72, steps=3, guidance_scale=5.0)
# Stochastic ones, some that look back at several steps, some that ask the network twice a step, and both at once.
SCHEDULERS = (
    None,
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "UniPCMultistepScheduler",
    "LCMScheduler",
    "HeunDiscreteScheduler",
)


def _same(one: Rendered, other: Rendered) -> bool:
    assert one.pixels is not None
    assert other.pixels is not None
    return np.array_equal(one.pixels, other.pixels)


def _close(one: Rendered, other: Rendered) -> bool:
    """Within one level of 255."""
    assert one.pixels is not None
    assert other.pixels is not None
    return bool(np.abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1)


def _go() -> Control:
    return Control.GO


@cache
def _engine(model_dir: Path, replay: Replay = Replay.NEVER) -> Engine:
    settings = EngineSettings(replay=replay, native_px=64)
    return Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=settings)


@cache
def _alone(model_dir: Path, number: int) -> Rendered:
    return _engine(model_dir).render(IMAGES[number], control=_go)


def _image(number: int) -> ImageSpec:
    """Number 5 has a prompt of three pieces, 6 of two, 3 is not guided, 7 in the middle alone, and 8 is refined."""
    return replace(
        CAT,
        prompt="a long walk " * {5: 60, 6: 40}.get(number, 1) + f"to hill {number}",
        negative_prompt="blurry" if number % 2 else None,
        long_prompt=LongPrompt.CHUNK,
        seed=number,
        steps=(2, 5, 3, 4, 7)[number % 5],
        scheduler=SCHEDULERS[number % len(SCHEDULERS)],
        guidance_scale=1.0 if number == 3 else 3.0 + number,
        guidance_rescale=0.5 if number == 4 else 0.0,
        guidance_interval=(0.3, 0.8) if number == 7 else (0.0, 1.0),
        highres=Highres(refine=True, base_px=48, strength=0.5) if number == 8 else Highres(),
    )


IMAGES = [_image(number) for number in range(9)]


def _rest(renders: Renders) -> dict[str, Rendered]:
    """All that are being rendered, to their end."""
    found: dict[str, Rendered] = {}
    while renders.count:
        found |= {one.name: one.rendered for one in renders.advance()}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_arrival_gives_the_images_that_each_gives_alone(model_dir: Path, seed: int) -> None:
    random_ = random.Random(seed)
    order = random_.sample(range(len(IMAGES)), len(IMAGES))
    renders = _engine(model_dir).renders(control=_go, slots=random_.choice((2, 3, 4)))
    found = rendered_as_they_arrive(renders, {str(number): IMAGES[number] for number in order}, random_)
    assert len(found) == len(IMAGES)
    assert any(one.others for one in found.values())
    for number in range(len(IMAGES)):
        alone, one = _alone(model_dir, number), found[str(number)]
        assert one.evaluations == alone.evaluations, number
        assert _close(one, alone), number


def test_the_same_arrivals_give_the_same_bytes_recorded_or_not(model_dir: Path) -> None:
    pictures = []
    for replay in (Replay.NEVER, Replay.OPERATORS, Replay.NEVER):
        renders = _engine(model_dir, replay).renders(control=_go, slots=3)
        found = rendered_as_they_arrive(
            renders, {str(number): IMAGES[number] for number in (1, 4, 6)}, random.Random(1)
        )
        pictures.append([found[name] for name in sorted(found)])
    for others in pictures[1:]:
        assert all(map(_same, pictures[0], others))


def test_neighbours_do_not_change_a_byte_of_an_image(model_dir: Path) -> None:
    """Of as many rows, and in the same slot, kernels do the same."""
    pictures = []
    for numbers in ((1, 2), (4, 0)):
        others = [replace(IMAGES[number], steps=CAT.steps) for number in numbers]
        pictures.append(_engine(model_dir).render_batch([others[0], CAT, others[1]], control=_go)[1])
    assert pictures[0].others == pictures[1].others == 2
    assert _same(*pictures)


def test_an_image_that_does_not_fit_the_table_is_not_admitted_and_a_bad_one_harms_no_other(model_dir: Path) -> None:
    renders = _engine(model_dir).renders(control=_go, slots=2)
    renders.join(CAT, "cat")
    assert not renders.admits(replace(CAT, width=128))
    with pytest.raises(BadImage, match="together"):
        renders.join(replace(CAT, width=128))
    with pytest.raises(BadImage, match="steps 0"):
        renders.join(replace(CAT, steps=0))
    renders.join(replace(CAT, seed=8), "other")
    assert not renders.admits(CAT)  # both slots are taken
    finished = _rest(renders)
    again = _engine(model_dir).render_batch([CAT, replace(CAT, seed=8)], control=_go)
    assert _same(finished["cat"], again[0])
    assert [finished[name].others for name in ("cat", "other")] == [1, 1]


def test_pictures_that_become_larger_in_windows_share_a_table(model_dir: Path) -> None:
    """Windows of the first pass, too, are what the table agrees in: one that has them is admitted to its like alone."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 36, 3), np.uint8)
    highres = Highres(refine=True, window_px=64)
    larger = [
        replace(CAT, seed=number, steps=steps, picture=StartPicture(36, 40, 1.0, pixels=pixels), highres=highres)
        for number, steps in ((1, 4), (2, 3))
    ]
    engine = _engine(model_dir)
    renders = engine.renders(control=_go, slots=2)
    renders.join(larger[0], "0")
    renders.advance(1)
    assert not renders.admits(CAT)
    assert renders.admits(larger[1])
    renders.join(larger[1], "1")
    found: dict[str, Rendered] = {}
    while renders.count:
        found |= {one.name: one.rendered for one in renders.advance()}
    for number, image in enumerate(larger):
        assert found[str(number)].others == 1
        assert _close(found[str(number)], engine.render(image, control=_go))


def test_a_stop_ends_all_images_and_the_engine_goes_on(model_dir: Path) -> None:
    engine, words = _engine(model_dir), iter([Control.GO, Control.STOP])
    renders = engine.renders(control=lambda: next(words), slots=2)
    for name in "ab":
        renders.join(CAT, name)
    with pytest.raises(Stopped):
        renders.advance()
    assert _same(engine.render(CAT, control=_go), _engine(model_dir, Replay.OPERATORS).render(CAT, control=_go))


def _on_ranks(model_dir: Path, layout: str, settings: EngineSettings) -> tuple[list[Any], list[Any]]:
    """Three images, the second and third of which join while others run; and each alone."""
    engine = on_ranks.engine(model_dir, layout, settings)
    images = [replace(IMAGES[number], width=128, height=128) for number in (1, 7, 4)]
    renders = engine.renders(control=_go, slots=2)
    found: dict[str, Rendered] = {}
    for number, image in enumerate(images):
        while not renders.admits(image):
            found |= {one.name: one.rendered for one in renders.advance()}
        renders.join(image, str(number))
        found |= {one.name: one.rendered for one in renders.advance(1)}
    found |= _rest(renders)
    return [found[name] for name in sorted(found)], [engine.render(image, control=_go) for image in images]


@pytest.mark.parametrize(("count", "layout"), [(2, "1x2x1"), (2, "1x1x2"), (4, "1x2x2")])
def test_exact_stays_exact_on_ranks_also_where_guidance_pauses(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    exact = EngineSettings(exact=True, native_px=64)
    together, alone = ranks(count).run(_on_ranks, model_dir, layout, exact)[0]
    for one, other in zip(together, alone, strict=True):
        assert one.evaluations == other.evaluations
        assert _close(one, other)


def test_an_image_that_joins_makes_displaced_ones_wait(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    """The first waits once of its own, once with the second, and once where guidance of the second begins."""
    together, alone = ranks(2).run(_on_ranks, model_dir, "1x1x2", EngineSettings(warmup=1, native_px=64))[0]
    assert alone[0].evaluations == Evaluations(1, 4)
    assert together[0].evaluations == Evaluations(3, 2)
    assert all(one.finite for one in together)
