"""ControlNets, Unions and T2I-Adapters: on every number of ranks the latent that diffusers' own pipelines make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distri.engine import EngineSettings
from distri.model.control.controlnets import ControlNet
from distri.model.image import ControlPicture, ImageSpec, Inpaint, Pixels, StartPicture
from distri.model.passes.stages import Highres
from distri.ranks.errors import BadImage
from distri.ranks.recorder import Replay
from distri.sampling.control import Control
from distri.sampling.planning import plan_of
from tests.distri import controlnets, on_ranks
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True, native_px=96)


def _pixels(height: int, width: int, seed: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def _mask(height: int, width: int) -> Pixels:
    """The lower left, along elements of the latent on the canvas: diffusers takes parts of elements otherwise."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 24 * 8 - -height % 8 // 2 :, : width // 16 * 8 - -width % 8 // 2] = 255
    return mask


# A network is named by its number, of which `_placed` makes the file.
def _control(height: int, width: int, number: int = 1, **options: Any) -> ControlPicture:
    return ControlPicture(ControlNet(Path(str(number))), pixels=_pixels(height, width, 10 + number), **options)


def _start(height: int, width: int, strength: float, inpaint: Inpaint | None = None) -> StartPicture:
    return StartPicture(width, height, strength, pixels=_pixels(height, width), inpaint=inpaint)


PLAIN = ImageSpec(
    "a photo of a cat",
    "blurry",
    seed=7,
    width=136,
    height=96,
    steps=2,
    guidance_scale=5.0,
    control=(_control(96, 136, scale=0.8),),
)
ODD = replace(PLAIN, width=139, height=93, scheduler="DPMSolverMultistepScheduler")
LARGE = replace(PLAIN, width=120, height=168, guidance_scale=1.0)
UNION, LARGE_UNION = (_control(96, 136, 20, scale=0.8, mode=3),), (_control(168, 120, 20, mode=0),)
ODD_UNION = (
    _control(93, 139, 20, scale=0.6, mode=1),
    replace(_control(93, 139, 20, mode=5), pixels=_pixels(93, 139, 5)),
)
# By networks, of which an engine keeps three.
IMAGES = {
    "plain": PLAIN,
    "odd size, two networks in turn and together, another scheduler": replace(
        ODD, steps=3, control=(_control(93, 139, end=0.7), _control(93, 139, 2, scale=0.5, start=0.3))
    ),
    "large, twice a step, without guidance": replace(
        LARGE, scheduler="HeunDiscreteScheduler", control=(_control(168, 120),)
    ),
    "with a picture": replace(PLAIN, picture=_start(96, 136, 1.0), control=(_control(96, 136, end=0.7),)),
    "within a mask": replace(PLAIN, picture=_start(96, 136, 1.0, Inpaint(mask=_mask(96, 136)))),
    "a union, for a while": replace(PLAIN, control=(replace(UNION[0], end=0.7),)),
    "odd size, a union of two pictures": replace(ODD, control=ODD_UNION),
    "large, a union without guidance": replace(LARGE, control=LARGE_UNION),
    "a union with a picture, later": replace(
        PLAIN, picture=_start(96, 136, 1.0), control=(replace(UNION[0], start=0.3),)
    ),
    "odd size, a union of two pictures with a picture": replace(
        ODD, picture=_start(93, 139, 0.6), steps=3, control=ODD_UNION
    ),
    "large, a union with a picture": replace(LARGE, picture=_start(168, 120, 0.5), control=LARGE_UNION),
    "a union within a mask": replace(PLAIN, picture=_start(96, 136, 0.5, Inpaint(mask=_mask(96, 136))), control=UNION),
    "odd size, a union of two pictures within a mask": replace(
        ODD, picture=_start(93, 139, 1.0, Inpaint(mask=_mask(93, 139))), control=ODD_UNION
    ),
    "large, a union within a mask": replace(
        LARGE, picture=_start(168, 120, 1.0, Inpaint(mask=_mask(168, 120))), control=LARGE_UNION
    ),
    "an adapter": replace(PLAIN, control=(_control(96, 136, 10, scale=0.7),)),
    "large, an adapter without guidance": replace(LARGE, control=(_control(168, 120, 10),)),
    "odd size, two adapters of which one sees grey, for a while": replace(
        ODD, control=(_control(93, 139, 12, end=0.7), _control(93, 139, 11, scale=0.5, end=0.7))
    ),
}


def _placed(directory: Path, image: ImageSpec) -> ImageSpec:
    """With the files of its networks, which are numbers above."""
    return replace(
        image,
        control=tuple(
            replace(one, network=ControlNet(controlnets.file(directory, int(one.network.path.name))))
            for one in image.control
        ),
    )


@cache
def _reference(directory: Path, name: str) -> torch.Tensor:
    return controlnets.latent(directory, IMAGES[name])


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3"), (5, "1x1x5")])
def test_the_latent_of_diffusers_on_every_number_of_ranks(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    images = [_placed(model_dir, image) for image in IMAGES.values()]
    answers = ranks(count).run(on_ranks.latents, model_dir, layout, EXACT, images)[0]
    for name, (latent, _) in zip(IMAGES, answers, strict=True):
        assert (latent - _reference(model_dir, name)).abs().max() < 1e-4, name


def test_control_changes_the_picture_and_is_forgotten_after_it(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    steered = _placed(model_dir, PLAIN)
    plain = replace(steered, control=())
    (first, _), (found, _), (again, _) = ranks(1).run(
        on_ranks.latents, model_dir, "1x1x1", EXACT, [plain, steered, plain]
    )[0]
    assert torch.equal(first, again)
    assert (found - first).abs().max() > 0.1


def test_displaced_evaluations_come_near_and_are_replayed(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    image = _placed(model_dir, replace(PLAIN, steps=6, control=(_control(96, 136, end=0.7),)))
    ((exact, _),) = ranks(1).run(on_ranks.latents, model_dir, "1x1x1", EXACT, [image])[0]
    answers = []
    for replay, times in ((Replay.NEVER, 1), (Replay.OPERATORS, 2)):
        settings = EngineSettings(warmup=2, native_px=96, replay=replay)
        answers.append(ranks(2).run(on_ranks.latents, model_dir, "1x1x2", settings, [image] * times)[0])
    for latent, rendered in (*answers[0], *answers[1]):
        assert (rendered.evaluations.synchronous, rendered.evaluations.displaced) == (3, 3)
        assert 1e-6 < (latent - exact).norm() / exact.norm() < 0.1
        assert torch.allclose(latent, answers[0][0][0], atol=1e-4)


def test_an_adapter_beside_a_union_displaced_and_replayed(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    both = (_control(96, 136, 20, mode=1), _control(96, 136, 10, end=0.7))
    image, alone = (_placed(model_dir, replace(PLAIN, steps=6, control=control)) for control in (both, both[:1]))
    (exact, _), (without, _) = ranks(1).run(on_ranks.latents, model_dir, "1x1x1", EXACT, [image, alone])[0]
    assert (exact - without).abs().max() > 0.01
    answers = []
    for replay, times in ((Replay.NEVER, 1), (Replay.OPERATORS, 2)):
        settings = EngineSettings(warmup=2, native_px=96, replay=replay)
        answers += ranks(2).run(on_ranks.latents, model_dir, "1x1x2", settings, [image] * times)[0]
    for latent, rendered in answers:
        assert (rendered.evaluations.synchronous, rendered.evaluations.displaced) == (3, 3)
        assert 1e-6 < (latent - exact).norm() / exact.norm() < 0.1
        assert torch.allclose(latent, answers[0][0], atol=1e-4)


def test_each_pass_of_a_large_picture_is_steered(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    large = replace(PLAIN, width=160, height=160, steps=2, highres=Highres(refine=True, strength=0.5))
    steered = _placed(model_dir, replace(large, control=(_control(160, 160),)))
    (alone, _), (late, _), (plain, _) = ranks(1).run(
        on_ranks.latents,
        model_dir,
        "1x1x1",
        EXACT,
        [steered, replace(steered, control=(replace(steered.control[0], start=0.4),)), replace(steered, control=())],
    )[0]
    assert (alone - late).abs().max() > 0.01
    assert (late - plain).abs().max() > 0.001


def test_a_cascade_is_not_steered() -> None:
    with pytest.raises(BadImage, match="control"):
        plan_of(replace(PLAIN, width=512, height=512, highres=Highres(switch_at=0.5)), 128)


def _refusals(model_dir: Path, images: list[ImageSpec]) -> list[str]:
    engine, found = on_ranks.engine(model_dir, "1x1x1", EXACT), []
    for image in images:
        with pytest.raises(BadImage) as refused:
            engine.render(image, control=lambda: Control.GO)
        found.append(str(refused.value))
    return found


def test_what_a_network_does_not_see_is_refused(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    def of(*control: ControlPicture) -> ImageSpec:
        return _placed(model_dir, replace(PLAIN, control=control))

    union, adapter = (partial(_control, 96, 136, number) for number in (20, 10))
    wanted = {
        "mode None for the ControlNet-Union control-20.safetensors; 0 to 5 wanted": of(union()),
        "mode 6 for the ControlNet-Union control-20.safetensors; 0 to 5 wanted": of(union(mode=6)),
        "mode 1 for control-10.safetensors, which is no ControlNet-Union": of(adapter(mode=1)),
        "steers the image twice": of(union(mode=1), union(mode=1)),
        "steer at different times": of(union(mode=1), union(mode=2, end=0.5)),
    }
    (found,) = ranks(1).run(_refusals, model_dir, list(wanted.values()))
    for message, refusal in zip(wanted, found, strict=True):
        assert message in refusal
