"""Pictures of prompts with weights, AND, schedules and alternation: exact on any ranks, by step and by pass."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Rendered
from distri.model.model import of_pipeline
from distri.model.passes.stages import Highres
from distri.model.text import prompt_reader
from distri.model.text.embeddings import Embedding, Embeddings
from distri.model.text.prompts import LongPrompt
from distri.model.text.weighted_prompt import (
    Composable,
    Inversion,
    Part,
    Period,
    Prompt,
    Span,
    WeightedPrompt,
    Weighting,
)
from distri.model.text.weighted_prompt import weighted as weighted_by
from distri.ranks.errors import BadImage
from distri.ranks.mesh import Mesh
from distri.ranks.recorder import Replay
from distri.ranks.spans import Spans
from distri.sampling.control import Control
from tests.distri import on_ranks, reference
from tests.distri.pool import Ranks

A1111 = Weighting.A1111
CAT, HILL, LAKE = (Part((Span("a photo of a "), Span(name, 1.4))) for name in ("cat", "hill", "lake"))
LONG = Part((Span("a Mountain Lake at sunrise, with fog; " * 9, 1.1),))
PLAIN = ImageSpec("a cat", "blurry", seed=7, width=96, height=128, steps=4, guidance_scale=5.0)

# What a prompt says: by step, the parts with their weights. A negative prompt is one part.
Said = Callable[[int], Sequence[tuple[float, Part]]]


def _prompt(*composables: Composable) -> WeightedPrompt:
    return WeightedPrompt(A1111, composables)


def _always(part: Part) -> tuple[Period, ...]:
    return (Period((part,)),)


BLURRY = weighted_by(A1111, Span("blurry", 1.3))
TURNS = _prompt(Composable((Period((CAT,), 1), Period((HILL,), 2), Period((CAT,), 3), Period((HILL,)))))
SWITCH = _prompt(Composable((Period((CAT,), 2), Period((HILL,)))))
BOTH = _prompt(Composable(_always(CAT), 1.2), Composable(_always(HILL), -0.4))
IMAGES: dict[str, tuple[ImageSpec, Said]] = {
    "weights, halves of two lengths": (
        replace(PLAIN, prompt=_prompt(Composable(_always(LONG))), negative_prompt=BLURRY, long_prompt=LongPrompt.CHUNK),
        lambda _: [(1.0, LONG)],
    ),
    "three prompts": (
        replace(PLAIN, prompt=_prompt(*BOTH.composables, Composable(_always(LAKE))), guidance_rescale=0.5),
        lambda _: [(1.2, CAT), (-0.4, HILL), (1.0, LAKE)],
    ),
    "two prompts without guidance": (
        replace(PLAIN, prompt=BOTH, guidance_scale=1.0),
        lambda _: [(1.2, CAT), (-0.4, HILL)],
    ),
    "turns": (replace(PLAIN, prompt=TURNS, negative_prompt=None), lambda step: [(1.0, (CAT, HILL)[step % 2])]),
    "a switch, two evaluations a step": (
        replace(PLAIN, prompt=SWITCH, scheduler="HeunDiscreteScheduler"),
        lambda step: [(1.0, CAT if step < 2 else HILL)],
    ),
}


@cache
@torch.inference_mode()
def _embedding(model_dir: Path, prompt: Prompt | None, clip_skip: int = 2) -> Embedding:
    """Of a prompt by itself, at its own length."""
    model = of_pipeline(reference.pipeline(model_dir))
    texts = prompt_reader.read(model.tokenizers, ("", None), (prompt, None), long=LongPrompt.CHUNK, zeros_for_none=True)
    assert texts.negative is not None
    fit = replace(texts.negative.fit, total=texts.negative.fit.filled)
    own = replace(texts, positives=(replace(texts.negative, fit=fit),), negative=None)
    return Embeddings(model, Spans()).of(own, clip_skip).positives[0].first.at(0)


@cache
@torch.inference_mode()
def _latent(model_dir: Path, name: str) -> Tensor:
    """By diffusers' own UNet and scheduler, one evaluation for every condition, each at its own length."""
    image, said = IMAGES[name]
    unet, scheduler = reference.pipeline(model_dir).unet, reference.scheduler(model_dir, image)
    scheduler.set_timesteps(image.steps)
    shape = (1, 4, image.height // 8, image.width // 8)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(image.seed)) * scheduler.init_noise_sigma
    time_ids = torch.tensor([image.time_ids((image.height, image.width))], dtype=torch.float32)
    for number, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latent, timestep)

        def predicted(prompt: Prompt | None, noisy: Tensor = scaled, time: Tensor = timestep) -> Tensor:
            own = _embedding(model_dir, prompt)
            added = {"text_embeds": own.pooled, "time_ids": time_ids}
            return torch.as_tensor(unet(noisy, time, encoder_hidden_states=own.text, added_cond_kwargs=added).sample)

        negative = predicted(image.negative_prompt)
        prompts = [(weight, _prompt(Composable(_always(part)))) for weight, part in said(number // scheduler.order)]
        toward = torch.stack([weight * (predicted(prompt) - negative) for weight, prompt in prompts]).sum(dim=0)
        guided = negative + image.guidance_scale * toward
        if image.guidance_rescale:
            matched = guided * (negative + toward).std() / guided.std()
            guided = image.guidance_rescale * matched + (1 - image.guidance_rescale) * guided
        latent = scheduler.step(guided, timestep, latent).prev_sample
    return torch.as_tensor(latent)


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3")])
def test_every_kind_of_prompt_gives_the_picture_of_its_formula_on_any_ranks(
    ranks: Callable[[int], Ranks], model_dir: Path, count: int, layout: str
) -> None:
    images = [image for image, _ in IMAGES.values()]
    answers = ranks(count).run(on_ranks.render, model_dir, layout, EngineSettings(exact=True), images)
    for place, name in enumerate(IMAGES):
        wanted = reference.decoded(model_dir, _latent(model_dir, name))
        assert np.abs(answers[0][place].pixels - wanted * 255).max() < 1, name


def test_displaced_evaluations_wait_where_the_prompt_changes(ranks: Callable[[int], Ranks], model_dir: Path) -> None:
    images = [replace(PLAIN, prompt=prompt, steps=6) for prompt in (SWITCH, TURNS, BOTH)]
    switch, turns, both = ranks(2).run(on_ranks.render, model_dir, "1x1x2", EngineSettings(warmup=1), images)[0]
    assert [one.evaluations.displaced for one in (switch, turns, both)] == [4, 2, 5]


def _engine(model_dir: Path, replay: Replay = Replay.NEVER) -> Engine:
    return Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(replay=replay))


def _render(engine: Engine, *images: ImageSpec, low_memory: bool = False) -> list[Rendered]:
    return engine.render_batch(images, control=lambda: Control.GO, low_memory=low_memory)


def test_replayed_evaluations_read_the_text_of_their_step(model_dir: Path) -> None:
    recorded, plain = _engine(model_dir, Replay.OPERATORS), _engine(model_dir)
    for prompt in (TURNS, BOTH, SWITCH):
        image = replace(PLAIN, prompt=prompt)
        (found,), (wanted,) = _render(recorded, image), _render(plain, image)
        assert found.pixels is not None
        assert wanted.pixels is not None
        assert np.array_equal(found.pixels, wanted.pixels)
    assert recorded._parts.unet.shapes.recordings == 2  # of two halves, and of three conditions


@pytest.mark.parametrize("prompts", [(SWITCH, TURNS), (BOTH, _prompt(*BOTH.composables[::-1]))])
def test_images_of_a_batch_have_schedules_and_weights_of_their_own(
    model_dir: Path, prompts: tuple[WeightedPrompt, WeightedPrompt]
) -> None:
    engine = _engine(model_dir)
    images = [replace(PLAIN, prompt=prompt, seed=place) for place, prompt in enumerate(prompts)]
    together = _render(engine, *images)
    low = _render(engine, *images, low_memory=True)
    for place, image in enumerate(images):
        (alone,) = _render(engine, image)
        for found in (together[place], low[place]):
            assert np.abs(found.pixels.astype(int) - alone.pixels.astype(int)).max() <= 1  # type: ignore[union-attr]


def test_images_of_a_batch_have_embeddings_of_their_own_and_say_what_an_encoder_lacks(
    model_dir: Path, tmp_path: Path
) -> None:
    engine, files = _engine(model_dir), [tmp_path / f"{name}.safetensors" for name in ("both", "half")]
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    save_file({"clip_l": vectors[:, :32].contiguous(), "clip_g": vectors}, files[0])
    save_file({"emb_params": vectors.flip(0)}, files[1])
    prompts = [weighted_by(A1111, "a ", Inversion(file), " hill") for file in files]
    images = [replace(PLAIN, prompt=prompt, steps=2) for prompt in prompts]
    together = _render(engine, *images)
    for image, found in zip(images, together, strict=True):
        (alone,) = _render(engine, image)
        assert np.abs(found.pixels.astype(int) - alone.pixels.astype(int)).max() <= 1  # type: ignore[union-attr]
    assert together[0].warnings == ()
    assert [one.split(";")[0] for one in together[1].warnings] == [
        "embedding half.safetensors has vectors for clip_g alone"
    ]


def test_images_of_a_batch_may_have_different_numbers_of_prompts(model_dir: Path) -> None:
    engine = _engine(model_dir)
    images = [replace(PLAIN, prompt=BOTH), replace(PLAIN, prompt=SWITCH, guidance_scale=1.0)]
    for image, found in zip(images, _render(engine, *images), strict=True):
        (alone,) = _render(engine, image)
        assert np.abs(found.pixels.astype(int) - alone.pixels.astype(int)).max() <= 1  # type: ignore[union-attr]


def test_passes_that_refine_have_a_schedule_of_their_own(model_dir: Path) -> None:
    preparation = _engine(model_dir)._parts.preparation
    prompt = _prompt(Composable(SWITCH.composables[0].periods, later=(Period((HILL,), 1), Period((LAKE,)))))
    image = replace(PLAIN, prompt=prompt, height=192, highres=Highres(refine=True, base_px=64))
    with torch.inference_mode():
        prepared = preparation.prepare(image, low_memory=False)
        for number, steps in enumerate([(CAT, CAT, HILL), (HILL, LAKE, LAKE)]):
            stage = prepared.plan.stages[number]
            latent = torch.zeros(1, 4, stage.height // 8, stage.width // 8)
            _, denoising = preparation.start_pass(number, prepared, latent)
            for step, part in enumerate(steps):
                wanted = _embedding(model_dir, _prompt(Composable(_always(part)))).text
                assert torch.equal(denoising.conditions.at(step, guided=True)[1].text, wanted)


def test_prompts_joined_by_and_of_different_lengths_are_extended_as_a1111_does(model_dir: Path) -> None:
    model = of_pipeline(reference.pipeline(model_dir))
    prompt = _prompt(Composable(_always(LONG)), Composable(_always(CAT)))
    texts = prompt_reader.read(
        model.tokenizers, (prompt, None), (BLURRY, None), long=LongPrompt.CHUNK, zeros_for_none=True
    )
    with torch.inference_mode():
        embedded = Embeddings(model, Spans()).of(texts, 2)
    _, cat = (side.first.at(0).text for side in embedded.positives)
    own = _embedding(model_dir, _prompt(Composable(_always(CAT)))).text
    length = 77 * texts.pieces
    assert torch.equal(cat, torch.cat([own, own[:, -1:].expand(-1, length - 77, -1)], dim=1))
    assert embedded.negative is not None
    blurry = _embedding(model_dir, BLURRY).text
    assert torch.equal(embedded.negative.first.at(0).text, blurry.repeat(1, texts.pieces, 1))


def test_a_negative_prompt_of_several_is_refused(model_dir: Path) -> None:
    with pytest.raises(BadImage, match="2 joined by AND"):
        _render(_engine(model_dir), replace(PLAIN, negative_prompt=BOTH))


@pytest.mark.parametrize("clip_skip", [0, 4])
def test_a_layer_that_the_encoders_do_not_have_is_refused(model_dir: Path, clip_skip: int) -> None:
    with pytest.raises(BadImage, match=rf"clip_skip {clip_skip}: 1 to 3"):
        _render(_engine(model_dir), replace(PLAIN, clip_skip=clip_skip))


def test_an_embedding_that_is_no_file_is_refused_and_the_next_image_is_not(model_dir: Path, tmp_path: Path) -> None:
    engine = _engine(model_dir)
    lost = weighted_by(A1111, "a ", Inversion(tmp_path / "lost.safetensors"))
    with pytest.raises(BadImage, match=r"embedding lost\.safetensors: it cannot be read"):
        _render(engine, replace(PLAIN, prompt=lost))
    assert _render(engine, PLAIN)[0].finite
