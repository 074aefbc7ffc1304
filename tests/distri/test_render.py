"""Whole renders against a plain diffusers pipeline with the same seed, in float32."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import Evaluations, ImageSpec
from distri.ranks.errors import BadImage, BadSize, LeaderFailed, PromptTooLong, Stopped, TooManyRanks, UnknownScheduler
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from tests.distri import on_ranks, reference
from tests.distri.networks import relative
from tests.distri.pool import Ranks

GetRanks = Callable[[int], Ranks]
PLAIN = ImageSpec("a photo of a cat", None, seed=7, width=128, height=128, steps=6, guidance_scale=5.0)
IMAGES = {
    "plain": PLAIN,
    "empty negative, odd": replace(PLAIN, negative_prompt="", width=216, height=104, steps=3),
    "negative, rescaled": replace(PLAIN, negative_prompt="blurry", guidance_rescale=0.7, height=136, steps=3),
    "unguided": replace(PLAIN, guidance_scale=1.0, width=96, height=168, steps=3),
    "two evaluations a step": replace(PLAIN, scheduler="HeunDiscreteScheduler", steps=3),
    "stochastic": replace(PLAIN, scheduler="EulerAncestralDiscreteScheduler", steps=3),
    "with history": replace(PLAIN, scheduler="DPMSolverMultistepScheduler", steps=4),
    "conditioned otherwise": replace(PLAIN, original_size=(512, 300), crop=(8, 16), target_size=(256, 256), steps=2),
}
EXACT, FAST = EngineSettings(exact=True), EngineSettings(warmup=2)
LAYOUTS = [(1, "1x1x1"), (2, "1x1x2"), (3, "1x1x3"), (2, "1x2x1"), (4, "1x2x2")]


def _go() -> Control:
    return Control.GO


def _latents(model_dir: Path, layout: str, settings: EngineSettings, images: list[ImageSpec]) -> list[tuple[Any, Any]]:
    """Each render, with the final latent that this rank had."""
    engine = on_ranks.engine(model_dir, layout, settings)
    answers = []
    for image in images:
        latents: list[torch.Tensor] = []
        render = engine.render(image, control=_go, on_final_latent=latents.append)
        answers.append((render, latents[0].clone()))
    return answers


@pytest.fixture(scope="module")
def wanted(model_dir: Path) -> dict[str, Any]:
    return {name: reference.render(model_dir, image) for name, image in IMAGES.items()}


@pytest.mark.parametrize(("count", "layout"), LAYOUTS)
def test_exact_renders_are_those_of_plain_diffusers(
    ranks: GetRanks, model_dir: Path, wanted: dict[str, Any], count: int, layout: str
) -> None:
    answers = ranks(count).run(_latents, model_dir, layout, EXACT, list(IMAGES.values()))
    for place, name in enumerate(IMAGES):
        latent, pixels = wanted[name]
        for rank in range(count):
            render, own_latent = answers[rank][place]
            assert relative(own_latent, latent) < 1e-4, name
            assert torch.equal(own_latent, answers[0][place][1]), name
            assert (render.finite, render.blank) == (True, False)
            assert (render.pixels is not None) == (rank == 0)
            assert render.evaluations.displaced == 0
        found = answers[0][place][0].pixels
        assert found.dtype == np.uint8
        assert found.shape == (IMAGES[name].height, IMAGES[name].width, 3)
        assert np.abs(found - pixels * 255).max() < 1, name


def test_a_scheduler_of_two_evaluations_a_step_has_more_evaluations_than_steps(model_dir: Path) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    render = engine.render(IMAGES["two evaluations a step"], control=_go)
    assert render.evaluations == Evaluations(synchronous=5, displaced=0)


@pytest.mark.parametrize(("count", "layout"), [(2, "1x1x2"), (4, "1x2x2")])
def test_displaced_renders_are_near_the_exact_one_and_repeat_bit_for_bit(
    ranks: GetRanks, model_dir: Path, wanted: dict[str, Any], count: int, layout: str
) -> None:
    other = IMAGES["empty negative, odd"]
    answers = ranks(count).run(on_ranks.render, model_dir, layout, FAST, [PLAIN, other, PLAIN])
    first, _, again = answers[0]
    assert first.evaluations == Evaluations(synchronous=2, displaced=4)
    assert np.array_equal(first.pixels, again.pixels)
    difference = np.abs(first.pixels - wanted["plain"][1] * 255)
    assert 0.01 < difference.mean() < 5


def test_warmup_as_long_as_the_image_is_exact(ranks: GetRanks, model_dir: Path) -> None:
    long, exact = (
        ranks(2).run(on_ranks.render, model_dir, "1x1x2", settings, [PLAIN])[0][0]
        for settings in (
            EngineSettings(warmup=6),
            EXACT,
        )
    )
    assert long.evaluations == exact.evaluations
    assert np.array_equal(long.pixels, exact.pixels)


def test_an_unguided_image_uses_both_halves_as_patches(ranks: GetRanks, model_dir: Path) -> None:
    answers = ranks(2).run(on_ranks.render, model_dir, "1x2x1", FAST, [IMAGES["unguided"], PLAIN])
    assert answers[0][0].evaluations == Evaluations(synchronous=2, displaced=1)
    assert answers[0][1].evaluations == Evaluations(synchronous=6, displaced=0)


def test_an_unguided_image_too_small_for_all_ranks_is_done_by_both_halves(ranks: GetRanks, model_dir: Path) -> None:
    tiny = replace(PLAIN, guidance_scale=1.0, width=64, height=64, steps=2)
    alone = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT).render(tiny, control=_go)
    answers = ranks(4).run(on_ranks.render, model_dir, "1x2x2", EXACT, [tiny])
    assert np.abs(answers[0][0].pixels.astype(int) - alone.pixels.astype(int)).max() <= 1  # type: ignore[union-attr]


def test_seed_and_negative_prompt_matter(model_dir: Path) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    images = [PLAIN, replace(PLAIN, seed=8), replace(PLAIN, negative_prompt=""), replace(PLAIN, prompt="a dog")]
    pixels = [np.asarray(engine.render(replace(image, steps=2), control=_go).pixels, np.uint8) for image in images]
    assert all(not np.array_equal(one, other) for i, one in enumerate(pixels) for other in pixels[:i])


def _stopped_at(model_dir: Path, layout: str, settings: EngineSettings, at: int) -> tuple[int, bool]:
    """Where a STOP before evaluation `at` ended an image, and whether the engine is as good as new afterwards."""
    engine = on_ranks.engine(model_dir, layout, settings)
    before = engine.render(PLAIN, control=_go)
    words = iter([Control.GO] * at + [Control.STOP])
    with pytest.raises(Stopped) as caught:
        engine.render(PLAIN, control=lambda: next(words))
    after = engine.render(PLAIN, control=_go)
    same = before.pixels is None or np.array_equal(before.pixels, after.pixels)  # type: ignore[arg-type]
    return caught.value.evaluation, same


@pytest.mark.parametrize("at", [0, 1, 4])
def test_stop_ends_all_ranks_at_the_same_evaluation(ranks: GetRanks, model_dir: Path, at: int) -> None:
    assert ranks(3).run(_stopped_at, model_dir, "1x1x3", FAST, at) == [(at, True)] * 3


def _leader_fails(model_dir: Path) -> str:
    engine = on_ranks.engine(model_dir, "1x1x2", FAST)

    def broken() -> Control:
        raise ZeroDivisionError

    with pytest.raises((ZeroDivisionError, LeaderFailed)) as caught:
        engine.render(PLAIN, control=broken)
    return caught.type.__name__


def test_a_leader_whose_control_raises_does_not_leave_the_others_waiting(ranks: GetRanks, model_dir: Path) -> None:
    assert ranks(2).run(_leader_fails, model_dir, timeout_s=30) == ["ZeroDivisionError", "LeaderFailed"]


REFUSED = [
    (replace(PLAIN, prompt="mountain " * 100), PromptTooLong, r"prompt has \d{3,} tokens.* reads 77"),
    (replace(PLAIN, negative_prompt="mountain " * 100), PromptTooLong, "negative_prompt has"),
    (replace(PLAIN, width=63), BadSize, "63x128"),
    (replace(PLAIN, height=0), BadSize, "128x0"),
    (replace(PLAIN, scheduler="NoSuchScheduler"), UnknownScheduler, "NoSuchScheduler"),
    (replace(PLAIN, scheduler="UNet2DConditionModel"), UnknownScheduler, "no scheduler"),
    (replace(PLAIN, scheduler="DDPMWuerstchenScheduler"), UnknownScheduler, "does not fit"),
    (replace(PLAIN, steps=0), BadImage, "steps 0"),
]


def _refuse(model_dir: Path, layout: str, image: ImageSpec, kind: type[Exception], match: str) -> int:
    engine = on_ranks.engine(model_dir, layout, FAST)
    before = engine.mesh.traffic.sent_bytes
    with pytest.raises(kind, match=match):
        engine.render(image, control=_go)
    return engine.mesh.traffic.sent_bytes - before


@pytest.mark.parametrize(("image", "kind", "match"), REFUSED)
def test_a_bad_image_is_refused_on_all_ranks_before_any_message(
    ranks: GetRanks, model_dir: Path, image: ImageSpec, kind: type[Exception], match: str
) -> None:
    assert ranks(2).run(_refuse, model_dir, "1x1x2", image, kind, match) == [0, 0]


def test_too_small_an_image_for_the_patch_degree_is_refused(ranks: GetRanks, model_dir: Path) -> None:
    small = replace(PLAIN, width=64, height=64)
    assert ranks(3).run(_refuse, model_dir, "1x1x3", small, TooManyRanks, "at most 2") == [0, 0, 0]


def test_a_warmup_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing stale"):
        EngineSettings(warmup=0)


def test_that_all_ranks_do_less_than_the_mean_is_refused() -> None:
    with pytest.raises(ValueError, match=r"most_work 0.9: at least 1"):
        EngineSettings(most_work=0.9)
