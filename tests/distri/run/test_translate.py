"""Rows to the engine's words and back, field by field."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distri.model.adapters.lora import Lora
from distri.model.control.controlnets import ControlNet
from distri.model.image import ControlPicture, Evaluations, Fit, Inpaint, Rendered, StartPicture
from distri.model.passes.stages import Enlargement, Highres, Stage
from distri.model.reference.ip_adapter import IPAdapter
from distri.model.text.prompts import LongPrompt
from distri.ranks.errors import BadControlNet, BadLora, BadReference
from distri.run.preprocessors import canny
from distri.run.translate import LOW_MEMORY_REPAIR, image_of, render_details_of
from pipeline.deployment.settings import ControlNetSource, EmbeddingSource, IPAdapterSource, LoraSource
from pipeline.input_picture import AdapterReference, Control, Inpainting, InputMask, InputPicture, Preprocess, Region
from pipeline.picture import Cascade, Conditioning, HighresMode, LaterPasses, RenderDetails, Scheduler
from pipeline.picture import Enlargement as RowEnlargement
from pipeline.picture import Highres as RowHighres
from pipeline.picture import LongPrompt as RowLongPrompt
from pipeline.picture import Lora as RowLora
from pipeline.picture import Stage as MadeStage
from pipeline.records.shards import ImageTask
from tests.factories import resolved_row

EMBEDDINGS = {"dark": EmbeddingSource(path="/models/dark.safetensors", sha256="1" * 64, aliases=("Gloom",))}
LORAS = {"film": LoraSource(path="/models/film.safetensors", sha256="0" * 64)}


def _image(**changes: Any) -> Any:
    return image_of(ImageTask(resolved_row(**changes), 2), LORAS, EMBEDDINGS)


def test_every_field_of_a_row_reaches_the_engine() -> None:
    image = _image(
        prompt_2="second",
        negative_prompt="",
        negative_prompt_2="other",
        long_prompt=RowLongPrompt.CHUNK,
        scheduler=Scheduler(name="DDIMScheduler", settings={"eta": 0.5}),
        loras=(RowLora(name="film", scale=0.5),),
        highres=RowHighres(mode=HighresMode.REFINE, strength=0.4, steps=9, base_px=512),
        later_passes=LaterPasses(window_px=768, guidance_scale=1.0, enlargement=RowEnlargement.LATENTS),
        conditioning=Conditioning(
            original_size=(640, 480),
            crop=(3, 4),
            target_size=(64, 32),
            negative_original_size=(10, 20),
            negative_crop=(5, 6),
            negative_target_size=(30, 40),
        ),
        guidance_rescale=0.7,
        guidance_interval=(0.2, 0.9),
    )
    assert image.seed == resolved_row().seed + 2
    assert (image.prompt, image.prompt_2) == ("a harbour", "second")
    assert (image.negative_prompt, image.negative_prompt_2) == ("", "other")
    assert image.long_prompt is LongPrompt.CHUNK
    assert (image.scheduler, image.scheduler_settings) == ("DDIMScheduler", {"eta": 0.5})
    assert image.loras == (Lora(Path("/models/film.safetensors"), 0.5, "0" * 64),)
    assert image.highres == Highres(
        *(True, 0.4, 9, 512), window_px=768, guidance_scale=1.0, enlargement=Enlargement.LATENTS
    )
    assert image.time_ids((1, 2)) == (480, 640, 4, 3, 32, 64)
    assert image.negative_time_ids((1, 2)) == (20, 10, 6, 5, 40, 30)
    assert image.guidance_rescale == 0.7
    assert image.guidance_interval == (0.2, 0.9)


def test_what_a_row_leaves_open_is_open_to_the_engine() -> None:
    image = _image()
    assert (image.prompt_2, image.negative_prompt, image.negative_prompt_2) == (None, None, None)
    assert (image.scheduler, image.loras, image.highres) == (None, (), Highres())
    assert image.time_ids((48, 64)) == image.negative_time_ids((48, 64)) == (48, 64, 0, 0, 48, 64)


def test_a_lora_that_the_pod_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(BadLora, match="LoRA grain: it is not in TESSERA_LORAS"):
        _image(loras=(RowLora(name="grain"),))


@pytest.mark.parametrize("low_memory", [False, True])
def test_what_the_engine_made_is_in_the_result(low_memory: bool) -> None:
    rendered = Rendered(
        pixels=None,
        encode_s=0,
        denoise_s=0,
        decode_s=0,
        evaluations=Evaluations(1, 0),
        others=0,
        bytes_sent=0,
        finite=True,
        blank=False,
        stages=(Stage(64, 72, steps=3, strength=1.0, seed=7),),
        canvas=(64, 72),
        crop=(0, 2),
        left_out={"prompt": "the end"},
        warnings=("w",),
        repairs=("r",),
    )
    row = resolved_row(negative_prompt="a (bad:1.3) hand")
    assert render_details_of(row, rendered, low_memory=low_memory) == RenderDetails(
        canvas=(64, 72),
        crop=(0, 2),
        stages=(MadeStage(width=64, height=72, steps=3, strength=1.0, seed=7),),
        truncated={"prompt": "the end"},
        warnings=(
            "w",
            "negative_prompt looks like prompt syntax, as in (word:1.3), and is read as literal text; syntax: a1111 "
            "reads it, syntax: none says that it is meant literally",
        ),
        repairs=(LOW_MEMORY_REPAIR, "r") if low_memory else ("r",),
    )


def test_a_masked_region_is_asked_for_in_the_size_in_which_it_is_rendered() -> None:
    picture = {"sha256": "a" * 64, "width": 640, "height": 480}
    mask = InputMask(**picture | {"sha256": "c" * 64}, box=(100, 200, 180, 280))
    region = Region(left=68, top=168, width=144, height=144, rendered=(1024, 1024), padding=32)
    painted = Inpainting(mask=mask, grow=2, feather=5, region=region, rounds=3)
    row = resolved_row(width=640, height=480, image=InputPicture(**picture), strength=1.0, inpaint=painted)
    pixels, levels = np.zeros((480, 640, 3), np.uint8), np.zeros((480, 640), np.uint8)
    image = image_of(ImageTask(row, 0), LORAS, EMBEDDINGS, pixels={"a" * 64: pixels, "c" * 64: levels})
    assert (image.width, image.height) == (1024, 1024)
    assert image.picture == StartPicture(640, 480, 1.0, Fit.FILL, None, Inpaint(2, 5, (68, 168, 212, 312), rounds=3))
    assert image.picture.inpaint is not None
    assert (image.picture.pixels is pixels, image.picture.inpaint.mask is levels) == (True, True)
    assert image.picture.start.width == 144
    assert not hasattr(image_of(ImageTask(resolved_row(inpaint=None), 0), LORAS, EMBEDDINGS).picture, "inpaint")


def test_a_cascade_is_one_pass_until_its_own_size() -> None:
    image = _image(width=512, height=512, cascade=Cascade(switch_at=0.5, base_px=300))
    assert image.highres == Highres(switch_at=0.5, base_px=300)
    free = _image(width=512, height=512, cascade=Cascade(switch_at=0.5, base_px=300, guidance_scale=1.0))
    assert free.highres == Highres(switch_at=0.5, base_px=300, guidance_scale=1.0)


def test_control_is_asked_for_with_the_networks_of_the_pod_and_the_maps_of_its_pictures() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    picture = InputPicture(sha256="a" * 64, width=64, height=48)
    wanted = Control(model="edges", image=picture, preprocess=Preprocess.CANNY, scale=0.7, end=0.5)
    source = ControlNetSource(path="/models/canny.safetensors", sha256="b" * 64)
    task = ImageTask(resolved_row(control=(wanted,)), 0)
    (found,) = image_of(task, LORAS, EMBEDDINGS, {"edges": source}, pixels={"a" * 64: pixels}).control
    assert found == ControlPicture(ControlNet(Path("/models/canny.safetensors"), "b" * 64), 0.7, 0.0, 0.5)
    assert found.pixels is not None
    assert np.array_equal(found.pixels, canny(pixels))
    (ahead,) = image_of(task, LORAS, EMBEDDINGS, {"edges": source}).control
    assert ahead.pixels is None
    with pytest.raises(BadControlNet, match="not in TESSERA_CONTROLNETS"):
        image_of(task, LORAS, EMBEDDINGS)


def test_references_are_asked_for_with_the_adapters_of_the_pod_and_their_pictures_and_masks() -> None:
    pixels, white = np.zeros((48, 64, 3), np.uint8), np.full((96, 136), 255, np.uint8)
    picture = InputPicture(sha256="a" * 64, width=64, height=48)
    mask = InputMask(sha256="c" * 64, width=136, height=96, box=(0, 0, 136, 96))
    source = IPAdapterSource(
        path="/models/face.safetensors",
        sha256="b" * 64,
        image_encoder="/models/image_encoder",
        image_encoder_sha256="d" * 64,
    )
    task = ImageTask(
        resolved_row(reference=(AdapterReference(adapter="face", image=picture, scale=0.6, mask=mask),)), 0
    )
    listed: Any = LORAS, EMBEDDINGS, {}, {"face": source}
    (found,) = image_of(task, *listed, pixels={"a" * 64: pixels, "c" * 64: white}).references
    adapter = IPAdapter(Path("/models/face.safetensors"), Path("/models/image_encoder"), "b" * 64, "d" * 64)
    assert (found.adapter, found.sha256, found.scale) == (adapter, "a" * 64, 0.6)
    assert found.pixels is pixels
    assert found.mask is white
    (ahead,) = image_of(task, *listed).references
    assert (ahead.pixels, ahead.mask) == (None, None)
    assert ahead.kind == found.kind
    with pytest.raises(BadReference, match="TESSERA_IP_ADAPTERS"):
        image_of(task, LORAS, EMBEDDINGS)
