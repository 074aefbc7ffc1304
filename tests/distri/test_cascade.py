"""One trajectory over several sizes: its noise and variances, and the plain one where nothing is smaller."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from distri.engine import Engine, EngineSettings
from distri.layers.conditions import Conditions
from distri.measure_detail import detail_of
from distri.model.image import ImageSpec, Rendered
from distri.model.passes.cascade import halvings_for, plan_cascade
from distri.model.passes.latent_detail import LatentDetail, file_beside
from distri.model.passes.stages import Highres, Part
from distri.model.sampling.schedulers import CASCADING, Steps
from distri.model.text.weighted_prompt import Composable, Period, Span, WeightedPrompt, Weighting
from distri.model.text.weighted_prompt import Part as TextPart
from distri.ranks.errors import BadImage, UnknownScheduler
from distri.ranks.mesh import Mesh
from distri.ranks.phase import Evaluation, Phase
from distri.sampling.cascade import UNMEASURED, grown, raised
from distri.sampling.conditions import PassConditions
from distri.sampling.control import Control
from distri.sampling.denoising import Denoising
from distri.sampling.guidance import Guidance
from distri.sampling.haar import analysed, halved, smooth_detail, synthesised
from distri.slots.slot import Slot
from pipeline.deployment import cascade_steps, cost
from pipeline.deployment.control_cost import MEGA
from pipeline.picture import Cascade
from pipeline.promptset.names import samplers
from tests.distri import networks, on_ranks
from tests.distri.networks import relative, seeded
from tests.distri.pool import Ranks
from tests.factories import resolved_row

NATIVE_PX = 96
EXACT = EngineSettings(exact=True, native_px=NATIVE_PX)
IMAGE = ImageSpec(
    *("a photo of a cat", "blurry"),
    seed=7,
    width=192,
    height=176,
    steps=5,
    guidance_scale=5.0,
    highres=Highres(switch_at=0.6),
)
CPU = torch.device("cpu")


def test_down_after_up_is_the_identity_and_unit_noise_stays_unit() -> None:
    x, noise = seeded(1, 1, 4, 6, 10), seeded(2, 1, 4, 12, 20)
    new = analysed(noise)[:, :, 1:]
    up = raised(x, torch.zeros_like(new), new, 3.0, torch.zeros(4, 3))
    assert relative(halved(up, 1), 2 * x) < 1e-6
    assert relative(synthesised(analysed(noise)), noise) < 1e-6
    # An orthonormal map of unit noise is unit noise: its matrix times its transpose is the identity.
    basis = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    matrix = analysed(basis).reshape(16, 16)
    assert (matrix @ matrix.T - torch.eye(16)).abs().max() < 1e-6
    scaled = raised(halved(noise, 1) * 1.5, torch.zeros_like(new), new, 3.0, torch.zeros(4, 3))
    assert relative(scaled, 3.0 * noise) < 1e-6


def test_what_grows_keeps_what_is_there_and_gets_noise_of_its_own_for_the_rest() -> None:
    small = seeded(1, 1, 4, 64, 80)
    large = _grown(small, 5)
    assert relative(halved(large, 2), 4 * small) < 1e-6
    finest = analysed(large)
    for level, sigma in ((finest[:, :, 1:], 6.0), (analysed(finest[:, :, 0])[:, :, 1:], 6.0)):
        # Of the smaller picture sigma is half, and its coefficients are twice a level.
        assert abs(float(level.std()) / sigma - 1) < 0.02
    other = _grown(small, 6)
    assert relative(halved(other, 2), 4 * small) < 1e-6
    assert relative(other, large) > 0.1


def _grown(small: Tensor, seed: int) -> Tensor:
    return grown(small, small, 2, sigma=6.0, generator=torch.Generator().manual_seed(seed), detail=None)


def _drawn(seed: int, slopes: Tensor, variances: Tensor, smaller: Tensor) -> Tensor:
    """A latent of twice the sides whose detail is a multiple of the smaller one's enlarged, and beside it noise."""
    noise = seeded(seed, *smaller.shape[:2], 3, *smaller.shape[2:], dtype=torch.float32)
    foreseen = smooth_detail(smaller) * slopes[None, :, :, None, None]
    detail = foreseen + noise * variances.sqrt()[None, :, :, None, None]
    return synthesised(torch.cat((2 * smaller[:, :, None], detail), 2))


def test_what_the_smaller_picture_tells_of_the_detail_is_measured_and_expected() -> None:
    """Latents of a known law: its numbers are found; what grows on the way has the law's detail, and the noise's."""
    slopes, variances = (
        torch.tensor([[0.9, 1.3, -0.4], [0.0, 0.6, 1.0]]),
        torch.tensor([[0.2, 0.4, 0.1], [0.3, 0.1, 0.5]]),
    )
    smaller = 2 * halved(seeded(1, 1, 2, 512, 512, dtype=torch.float32), 2)
    smaller = functional.interpolate(smaller, scale_factor=2, mode="bilinear")  # neighbours that are alike
    found = detail_of(_drawn(2, slopes, variances, smaller))
    assert (found.slopes_C3 - slopes).abs().max() < 0.02
    assert (found.variances_C3 / variances - 1).abs().max() < 0.03
    sigma, generator = 0.5, torch.Generator().manual_seed(3)
    noisy = smaller + sigma / 2 * seeded(4, *smaller.shape, dtype=torch.float32)
    large = grown(noisy, smaller, 1, sigma=sigma, generator=generator, detail=found)
    again = detail_of(synthesised(torch.cat((2 * smaller[:, :, None], analysed(large)[:, :, 1:]), 2)))
    assert (again.slopes_C3 - slopes).abs().max() < 0.05
    assert (again.variances_C3 / (variances + sigma**2) - 1).abs().max() < 0.03


def test_what_grows_twice_expects_the_finer_detail_from_what_it_expected_first() -> None:
    clean = seeded(1, 1, 1, 6, 10, dtype=torch.float32)
    detail = LatentDetail(1, ((0.0,) * 3,), ((1.0, 0.5, 0.25),))
    once = _drawn(2, detail.slopes_C3, torch.zeros(1, 3), clean)
    twice = _drawn(2, detail.slopes_C3, torch.zeros(1, 3), once)
    generator = torch.Generator().manual_seed(3)
    assert relative(grown(clean, clean, 2, sigma=0.0, generator=generator, detail=detail), twice) < 1e-6


def _walk(steps: int, part: Part) -> Steps:
    scheduler: Any = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
    )
    return Steps(scheduler, steps, torch.Generator().manual_seed(0), CPU, part=part)


def test_gaussian_latents_keep_their_variances_within_and_beside_the_subspace() -> None:
    """With the exact score of Gaussian data of a known spectrum, through two growths."""
    means, details = 1.0, torch.tensor([[0.5, 0.4, 0.3]])
    variances = [means]  # of an element's first coefficient, from the smallest picture on
    for _ in range(2):
        variances.append(variances[-1] * 4)  # in the larger picture's units
    steps, parts = 1000, [Part(0, 400, 2), Part(400, 650, 1), Part(650, 1000, 0)]
    low, *new = _unit_noises()
    latent: Tensor | None = None
    for number, part in enumerate(parts):
        walk = _walk(steps, part)
        latent = (
            raised(latent, torch.zeros_like(new[number - 1]), new[number - 1], walk.sigma, details)
            if latent is not None
            else (walk.begin(None, low))
        )
        sigmas = [*(walk._scheduler.sigmas[part.first : part.end].tolist())]
        for timestep, sigma in zip(walk.timesteps, sigmas, strict=True):
            walk.scaled(latent, timestep)
            latent = walk.step(_exact(latent, sigma, means, details, number), timestep, latent)
    assert latent is not None
    for level in (0, 1):
        coefficients = analysed(latent)
        found = coefficients[:, :, 1:].square().mean(dim=(0, 3, 4))
        # In the larger picture's units the detail of a smaller one is twice as large a level.
        assert ((found / (details * 4**level)) - 1).abs().max() < 0.01
        latent = coefficients[:, :, 0]
    assert abs(float(latent.square().mean()) / variances[-1] - 1) < 0.01


def _unit_noises() -> list[Tensor]:
    """Of the smallest picture, and of what is new in each larger one: each has a mean square of 1, not about."""
    shapes = [(1, 1, 8, 8), (1, 1, 3, 8, 8), (1, 1, 3, 16, 16)]
    drawn = [seeded(3 + number, *shape, dtype=torch.float32) for number, shape in enumerate(shapes)]
    return [one / one.square().mean(dim=(-2, -1), keepdim=True).sqrt() for one in drawn]


def _exact(latent: Tensor, sigma: float, means: float, details: Tensor, number: int) -> Tensor:
    """The noise in a latent, as far as it can be known of Gaussian data: by coefficient s x / (v + s^2)."""
    if number == 0:
        return latent * sigma / (means + sigma**2)
    coefficients = analysed(latent)
    low = _exact(coefficients[:, :, 0] / 2, sigma / 2, means, details, number - 1)
    wanted = details[None, :, :, None, None] + sigma**2
    return synthesised(torch.cat((low[:, :, None], coefficients[:, :, 1:] * sigma / wanted), 2))


def test_a_smaller_picture_is_evaluated_at_the_timestep_of_its_own_noise() -> None:
    whole, small = _walk(10, Part(0, 10, 0)), _walk(10, Part(0, 6, 1))
    trained = ((1 - whole._scheduler.alphas_cumprod) / whole._scheduler.alphas_cumprod).sqrt()
    known = np.interp(small.timesteps.numpy(), np.arange(1000), trained.numpy())
    assert len(small.timesteps) == 6
    assert np.allclose(known, whole._scheduler.sigmas[:6].numpy() / 2, rtol=1e-3)


def _rendered(model_dir: Path, image: ImageSpec) -> Rendered:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    return engine.render(image, control=lambda: Control.GO)


def test_a_switch_at_the_first_step_is_plain_sampling_bit_for_bit(model_dir: Path) -> None:
    for name in CASCADING:
        image = replace(IMAGE, scheduler=name, highres=Highres(switch_at=0.0), steps=3)
        found, plain = _rendered(model_dir, image), _rendered(model_dir, replace(image, highres=Highres()))
        assert found.pixels is not None and plain.pixels is not None  # noqa: PT018 - for mypy
        assert np.array_equal(found.pixels, plain.pixels)


def test_a_cascade_begins_as_the_plain_small_picture_of_its_seed(model_dir: Path) -> None:
    """So a draft in the native size shows what a large picture will be."""
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    preparation = engine._parts.preparation
    small = replace(IMAGE, width=96, height=88, highres=Highres())
    begun = [
        preparation.start_pass(0, preparation.prepare(image, low_memory=False), None)[0] for image in (IMAGE, small)
    ]
    assert begun[0].shape == begun[1].shape
    wider, plain = (latent / latent.std() for latent in begun)
    assert relative(wider, plain) < 1e-5


@pytest.mark.parametrize("name", CASCADING)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("part", [Part(0, 4, 2), Part(3, 4, 1)])
def test_a_smaller_walk_ends_with_what_it_last_took_for_the_latent_without_noise(
    part: Part, prediction_type: str, name: str
) -> None:
    """As the scheduler itself predicts it, at the smaller picture's noise."""
    if (prediction_type, name) == ("sample", CASCADING[1]):
        pytest.skip("diffusers has none")
    kind: Any = getattr(diffusers, name)
    walks = [
        Steps(
            kind(beta_schedule="scaled_linear", prediction_type=prediction_type),
            *(6, torch.Generator().manual_seed(0), CPU),
            part=part,
        )
        for _ in range(2)
    ]
    nothing = PassConditions.always(Conditions(torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 6)), None)
    slot = Slot(seeded(1, 1, 4, 6, 8, dtype=torch.float32), Denoising(walks[0], nothing, Guidance(1.0)))
    clean = torch.zeros(())
    for timestep in walks[1].timesteps:
        latent = slot.latent_1CHW
        prediction = seeded(2 + slot.index, *latent.shape, dtype=torch.float32)
        slot.scaled()
        slot.step([prediction], Evaluation(Phase.SYNCHRONOUS, publish=False), others=0)
        walks[1].scaled(latent, timestep)
        _, clean = walks[1]._scheduler.step(prediction, timestep, latent, return_dict=False)
    (found,) = slot.predicted
    assert relative(found, clean) < 1e-6


@pytest.fixture
def measured_model(model_dir: Path, tmp_path: Path) -> Path:
    """With a file of its latents' detail."""
    model = shutil.copytree(model_dir, tmp_path / "measured")
    rows = [[0.1 * (channel + number) for number in range(3)] for channel in range(4)]
    LatentDetail(16, tuple(map(tuple, rows)), tuple(tuple(1 - one for one in row) for row in rows)).write(model)
    return model


@pytest.mark.parametrize(("count", "layout"), [(2, "1x1x2"), (3, "1x1x3"), (4, "1x2x2")])
def test_a_cascade_is_the_same_for_every_layout(
    ranks: Callable[[int], Ranks], measured_model: Path, count: int, layout: str
) -> None:
    """Of two growths, with noise that steps add, in a size that is cut out of its canvas."""
    image = replace(IMAGE, width=331, height=281, scheduler=CASCADING[1], highres=Highres(switch_at=0.6))
    alone = _rendered(measured_model, image)
    answers = ranks(count).run(on_ranks.render, measured_model, layout, EXACT, [image])
    found = answers[0][0]
    assert np.abs(found.pixels.astype(int) - alone.pixels).max() <= 1
    assert [(stage.size, stage.part) for stage in found.stages] == [
        ((88, 72), Part(0, 2, 2)),
        ((176, 144), Part(2, 3, 1)),
        ((352, 288), Part(3, 5, 0)),
    ]
    assert (found.canvas, found.crop) == ((352, 288), (10, 3))
    assert found.evaluations.synchronous == 5
    assert UNMEASURED not in found.warnings


def test_what_is_expected_of_the_detail_shows_and_a_warning_says_where_nothing_is(
    model_dir: Path, measured_model: Path
) -> None:
    """The larger picture goes on from the last prediction of the smaller one."""
    image = replace(IMAGE, steps=3)
    plain, measured = (_rendered(model, image) for model in (model_dir, measured_model))
    assert (UNMEASURED in plain.warnings, UNMEASURED in measured.warnings) == (True, False)
    file = file_beside(measured_model)
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"slopes": [[0, 0, 0]] * 4}))
    without = _rendered(measured_model, image)
    assert measured.pixels is not None and without.pixels is not None  # noqa: PT018 - for mypy
    assert not np.array_equal(measured.pixels, without.pixels)


def test_every_size_warms_up_and_is_displaced_by_itself(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    fast = EngineSettings(warmup=1, native_px=NATIVE_PX)
    found = ranks(2).run(on_ranks.render, model_dir, "1x1x2", fast, [IMAGE])[0][0]
    assert (found.evaluations.synchronous, found.evaluations.displaced) == (2, 3)


def test_what_changes_in_the_middle_of_a_prompt_changes_at_that_step_of_the_whole(model_dir: Path) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    preparation = engine._parts.preparation
    cat, dog = ((TextPart((Span(text),)),) for text in ("a cat", "a dog"))
    changing = WeightedPrompt(Weighting.A1111, (Composable((Period(cat, 4), Period(dog, None)), 1.0),))
    prepared = preparation.prepare(replace(IMAGE, prompt=changing), low_memory=False)
    latent = torch.zeros(1, 4, *preparation.latent_size(prepared.plan.stages[0]))
    first = preparation.start_pass(0, prepared, None)[1]
    second = preparation.start_pass(1, prepared, latent, clean_1CHW=latent)[1]
    assert (first.conditions.changes, second.conditions.changes) == (frozenset({4}), frozenset({1}))
    assert [first.steps.share(0), second.steps.share(0)] == [0, 0.6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "DPMSolverMultistepScheduler"}, "no cascade of smaller pictures with it"),
        ({"scheduler": "DDIMScheduler"}, "DDIMScheduler"),
        ({"highres": Highres(switch_at=1.0)}, "at least 0 and below 1"),
        ({"highres": Highres(refine=True, switch_at=0.5)}, "one trajectory from noise"),
    ],
)
def test_what_does_not_cascade_is_refused_before_anything_is_computed(
    model_dir: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((BadImage, UnknownScheduler), match=message):
        _rendered(model_dir, replace(IMAGE, **changes))


def test_two_sizes_take_at_most_six_tenths_of_the_work_of_one_estimated_and_counted() -> None:
    large: dict[str, Any] = {"width": 2048, "height": 2048, "steps": 30, "scheduler": None}
    rows = [resolved_row(**large), resolved_row(**large, cascade=Cascade())]
    direct, cascade = (cost.tera_operations(row, 1024) for row in rows)
    assert cascade / direct <= 0.6
    counted = {side: _operations(side) for side in (12, 24)}
    plan = plan_cascade(192, 192, steps=30, seed=1, highres=Highres(switch_at=Cascade().switch_at), native_px=96)
    walked = [(stage.width // 8, stage.part.end - stage.part.first) for stage in plan.stages if stage.part is not None]
    assert sum(steps for _, steps in walked) == 30
    assert sum(steps * counted[side] for side, steps in walked) / (30 * counted[24]) <= 0.6


@pytest.mark.parametrize(("side", "halvings"), [(2048, 1), (4096, 2), (8192, 3)])
def test_without_guidance_in_larger_sizes_they_are_half_the_work(side: int, halvings: int) -> None:
    large: dict[str, Any] = {"width": side, "height": side, "steps": 30, "scheduler": None, "guidance_scale": 5.0}
    guided, free = (
        cost.tera_operations(resolved_row(**large, cascade=Cascade(guidance_scale=scale)), 1024) for scale in (None, 1)
    )
    unguided = replace(IMAGE.highres, guidance_scale=1.0)
    plan = plan_cascade(side, side, steps=30, seed=1, highres=unguided, native_px=1024)
    assert [stage.guidance_scale for stage in plan.stages] == [None] + halvings * [1.0]
    later = [(stage.width * stage.height / MEGA, stage.part) for stage in plan.stages[1:]]
    saved = sum((part.end - part.first) * cost.unet_tera(pixels, None) for pixels, part in later if part is not None)
    assert guided - free == pytest.approx(saved)


def test_an_interval_counts_in_the_sizes_that_it_falls_in() -> None:
    large: dict[str, Any] = {"width": 4096, "height": 4096, "steps": 20, "guidance_scale": 5.0, "scheduler": None}
    unguided = Cascade(guidance_scale=1.0)
    whole, late = (
        cost.tera_operations(resolved_row(**large, guidance_interval=interval, cascade=unguided), 1024)
        for interval in ((0.0, 1.0), (0.4, 1.0))
    )
    assert whole - late == pytest.approx(8 * cost.unet_tera(1024**2 / MEGA, None))  # of nine steps in the smallest size


@pytest.mark.parametrize(("side", "ends"), [(2048, [0.6, 1]), (4096, [0.45, 0.6, 1]), (8192, [0.4, 0.5, 0.6, 1])])
def test_the_smallest_size_has_more_than_half_of_the_steps_before_the_switch(side: int, ends: list[float]) -> None:
    plan = plan_cascade(side, side, steps=100, seed=1, highres=Highres(switch_at=0.6), native_px=1024)
    assert [stage.part.end / stage.steps for stage in plan.stages if stage.part is not None] == ends


def test_larger_sizes_are_guided_by_a_scale_of_their_own(model_dir: Path) -> None:
    """Equal to the scale of the whole, the picture is the same; off, another one."""
    scales = (None, IMAGE.guidance_scale, 1.0)
    plain, same, free = (
        _rendered(model_dir, replace(IMAGE, highres=replace(IMAGE.highres, guidance_scale=scale))).pixels
        for scale in scales
    )
    assert plain is not None and same is not None and free is not None  # noqa: PT018 - for mypy
    assert np.array_equal(plain, same)
    assert not np.array_equal(plain, free)


def _operations(side: int) -> int:
    network = networks.unet(torch.float32).to("meta")
    text, pooled = networks.TEXT_WIDTH, networks.POOLED_WIDTH
    with FlopCounterMode(display=False) as counter:
        network(
            torch.empty(1, 4, side, side, device="meta"),
            torch.empty(1, device="meta"),
            torch.empty(1, networks.TEXT_TOKENS, text, device="meta"),
            added_cond_kwargs={
                "text_embeds": torch.empty(1, pooled, device="meta"),
                "time_ids": torch.empty(1, 6, device="meta"),
            },
        )
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    ("size", "base_px", "steps"), [((2048, 2048), 1024, 30), ((4096, 2304), 900, 7), ((1500, 1400), 1024, 2)]
)
def test_estimates_count_the_steps_that_are_walked_in_each_size(
    size: tuple[int, int], base_px: int, steps: int
) -> None:
    plan = plan_cascade(*size, steps=steps, seed=1, highres=Highres(switch_at=0.6, base_px=base_px), native_px=1024)
    row = resolved_row(width=size[0], height=size[1], steps=steps, cascade=Cascade(base_px=base_px), guidance_scale=1.0)
    direct = resolved_row(width=size[0], height=size[1], steps=steps, guidance_scale=1.0)
    megapixels = size[0] * size[1] / MEGA
    whole = cost.unet_tera(megapixels, None)
    saved = sum(
        (stage.part.end - stage.part.first) * (whole - cost.unet_tera(megapixels / 4**stage.part.halvings, None))
        for stage in plan.stages
        if stage.part is not None
    )
    assert cost.tera_operations(row, 1024) == pytest.approx(cost.tera_operations(direct, 1024) - saved)
    assert cascade_steps.halvings(*size, base_px) == halvings_for(*size, base_px)
    assert CASCADING == samplers.CASCADING


@pytest.mark.parametrize(
    ("size", "stages"), [((1024, 1024), 1), ((2048, 2048), 2), ((4096, 2304), 3), ((1500, 1500), 2)]
)
def test_sides_are_halved_to_near_the_native_size(size: tuple[int, int], stages: int) -> None:
    plan = plan_cascade(*size, steps=30, seed=1, highres=Highres(switch_at=0.6), native_px=1024)
    assert len(plan.stages) == stages
    assert 1024 / math.sqrt(2) < math.sqrt(math.prod(plan.stages[0].size)) < 1024 * math.sqrt(2) * 1.02
    assert plan.canvas[0] >= size[0]
    parts = [stage.part for stage in plan.stages if stage.part is not None]
    assert [part.first for part in parts[1:]] == [part.end for part in parts[:-1]]
