"""A refiner takes over as diffusers' two pipelines do, by `denoising_end` and `denoising_start`."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.model.passes.stages import Highres
from distri.ranks.errors import BadImage, ModelError
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from pipeline.checkpoints.checkpoint import ModelFiles
from tests.distri import on_ranks, reference
from tests.distri.networks import relative
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True)
IMAGE = ImageSpec(
    "a photo of a cat", None, seed=7, width=128, height=64, steps=8, guidance_scale=5.0, refiner_switch_at=0.6
)
GetRanks = Callable[[int], Ranks]


def write_refiner(base: Path, folder: Path) -> Path:
    """A refiner of the demo model's second text encoder, as its hub folder is laid out."""
    for part in ("vae", "text_encoder_2", "tokenizer_2", "scheduler"):
        shutil.copytree(base / part, folder / part)
    torch.manual_seed(3)
    kind: Any = UNet2DConditionModel
    unet = kind(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=5 * 32 + 64,
    )
    unet.save_pretrained(folder / "unet")
    index = json.loads((base / "model_index.json").read_text()) | {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "requires_aesthetics_score": True,
        "force_zeros_for_empty_prompt": False,
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module", name="refiner_dir")
def _refiner_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_refiner(model_dir, tmp_path_factory.mktemp("refiner"))


def _engine(model_dir: Path, refiner_dir: Path, mesh: Mesh) -> Engine:
    return Engine.load(model_dir, mesh, dtype=torch.float32, settings=EXACT, refiner=ModelFiles(refiner_dir))


def _latent(engine: Engine, image: ImageSpec) -> torch.Tensor:
    latents: list[torch.Tensor] = []
    engine.render(image, control=lambda: Control.GO, on_final_latent=latents.append)
    return latents[0].clone()


def _by_diffusers(model_dir: Path, refiner_dir: Path, image: ImageSpec) -> torch.Tensor:
    parts = reference.pipeline(model_dir).components
    base: Any = diffusers.StableDiffusionXLPipeline(
        **parts | {"scheduler": reference.scheduler(model_dir, image)}, add_watermarker=False
    )
    encoder: Any = CLIPTextModelWithProjection
    unet: Any = UNet2DConditionModel
    refiner: Any = diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=parts["vae"],
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=encoder.from_pretrained(refiner_dir / "text_encoder_2"),
        tokenizer_2=CLIPTokenizer.from_pretrained(refiner_dir / "tokenizer_2"),
        unet=unet.from_pretrained(refiner_dir / "unet"),
        scheduler=reference.scheduler(model_dir, image),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    for one in (base, refiner):
        one.set_progress_bar_config(disable=True)
    share = image.refiner_switch_at
    arguments: dict[str, Any] = {
        "prompt": image.prompt,
        "negative_prompt": image.negative_prompt,
        "num_inference_steps": image.steps,
        "guidance_scale": image.guidance_scale,
        "output_type": "latent",
    }
    size = {"width": image.width, "height": image.height}
    generator = torch.Generator().manual_seed(image.seed)
    latent = base(**arguments, **size, generator=generator, denoising_end=share).images
    sizes = {"original_size": (image.height, image.width), "target_size": (image.height, image.width)}
    result: torch.Tensor = refiner(**arguments, **sizes, image=latent, denoising_start=share).images
    return result


IMAGES = {
    "its own scheduler": IMAGE,
    "negative": replace(IMAGE, negative_prompt="blurry", refiner_switch_at=0.8),
    "with history": replace(IMAGE, scheduler="DPMSolverMultistepScheduler", steps=6),
    "unguided": replace(IMAGE, guidance_scale=1.0, steps=4),
}


@pytest.mark.parametrize("what", IMAGES)
def test_base_and_refiner_give_what_two_pipelines_of_diffusers_give(
    model_dir: Path, refiner_dir: Path, what: str
) -> None:
    engine = _engine(model_dir, refiner_dir, Mesh.single())
    found, wanted = _latent(engine, IMAGES[what]), _by_diffusers(model_dir, refiner_dir, IMAGES[what])
    assert relative(found, wanted) < 1e-4
    plain = replace(IMAGES[what], refiner_switch_at=None)
    assert relative(_latent(engine, plain), wanted) > 1e-2


def _on_rank(model_dir: Path, refiner_dir: Path) -> torch.Tensor:
    return _latent(_engine(model_dir, refiner_dir, on_ranks.mesh("1x1x2")), IMAGE)


def test_two_ranks_refine_as_one_does(ranks: GetRanks, model_dir: Path, refiner_dir: Path) -> None:
    alone = _latent(_engine(model_dir, refiner_dir, Mesh.single()), IMAGE)
    for found in ranks(2).run(_on_rank, model_dir, refiner_dir):
        assert relative(found, alone) < 1e-4


@pytest.mark.parametrize("scheduler", ["HeunDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_each_evaluation_is_made_once_and_in_whole_steps(model_dir: Path, refiner_dir: Path, scheduler: str) -> None:
    engine = _engine(model_dir, refiner_dir, Mesh.single())
    image = replace(IMAGE, scheduler=scheduler, steps=5)
    with_refiner = engine.render(image, control=lambda: Control.GO)
    without = engine.render(replace(image, refiner_switch_at=None), control=lambda: Control.GO)
    assert with_refiner.evaluations == without.evaluations
    assert with_refiner.finite


def test_every_pass_of_a_large_picture_is_refined(model_dir: Path, refiner_dir: Path) -> None:
    engine = _engine(model_dir, refiner_dir, Mesh.single())
    image = replace(IMAGE, highres=Highres(refine=True, strength=0.5, base_px=64), steps=4)
    rendered = engine.render(image, control=lambda: Control.GO)
    assert (len(rendered.stages), rendered.evaluations.synchronous, rendered.finite) == (2, 4 + 2, True)


def test_an_image_that_wants_a_refiner_fails_without_one(model_dir: Path) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    with pytest.raises(BadImage, match="the model has no refiner"):
        engine.render(IMAGE, control=lambda: Control.GO)


def test_a_base_model_is_no_refiner(model_dir: Path) -> None:
    with pytest.raises(ModelError, match="a refiner wanted here"):
        _engine(model_dir, model_dir, Mesh.single())
