from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.initialization import no_init_weights

from pipeline.checkpoints import networks, original
from pipeline.checkpoints.checkpoint import shipped
from pipeline.checkpoints.kinds import Kind
from pipeline.errors import BadCheckpoint
from tests import checkpoints

DEMO = Path(__file__).parents[3] / "models" / "demo"


def _made(kind: Any, config: dict[str, Any]) -> Any:
    with torch.device("meta"), no_init_weights():
        return kind(config)


def _shapes(network: Any) -> networks.Shapes:
    return {name.removeprefix("text_model."): tuple(one.shape) for name, one in network.state_dict().items()}


def _configs(model: str) -> dict[str, Any]:
    if model != "demo":
        return shipped(Kind(model))
    return {part: json.loads((DEMO / part / "config.json").read_text()) for part in checkpoints.ALL}


@pytest.mark.parametrize("model", ["base", "refiner", "demo"])
def test_the_tensors_are_those_that_diffusers_and_transformers_make(model: str) -> None:
    configs = _configs(model)
    assert networks.unet_tensors(configs["unet"]) == _shapes(_made(UNet2DConditionModel.from_config, configs["unet"]))
    assert networks.vae_tensors(configs["vae"]) == _shapes(_made(AutoencoderKL.from_config, configs["vae"]))
    for part, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        if part in configs:
            found = networks.text_encoder_tensors(configs[part], projected=part == "text_encoder_2")
            assert found == _shapes(_made(lambda config, kind=kind: kind(CLIPTextConfig(**config)), configs[part]))


@pytest.mark.parametrize("model", ["base", "refiner", "demo"])
def test_diffusers_reads_the_original_names_as_the_same_tensors(model: str) -> None:
    configs = _configs(model)
    for part, convert in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
        prefix, layout = checkpoints.PREFIXES[part]
        names = networks.unet_tensors(configs[part]) if part == "unet" else networks.vae_tensors(configs[part])
        # Each tensor is its own name's object, so that a conversion shows where it puts it.
        stored = {prefix + layout(name, configs[part]).key: torch.zeros(1) for name in names}
        of_tensor = {id(stored[prefix + layout(name, configs[part]).key]): name for name in names}
        kind: Any = UNet2DConditionModel if part == "unet" else AutoencoderKL
        converted: Any = convert(stored, _made(kind.from_config, configs[part]).config)  # type: ignore[no-untyped-call]
        assert {name: of_tensor[id(one)] for name, one in converted.items()} == {name: name for name in names}


def test_diffusers_reads_open_clips_names_as_the_same_tensors() -> None:
    config, weights = checkpoints.weights_of(DEMO, "text_encoder_2")
    stored = checkpoints.original_tensors("text_encoder_2", config, weights)
    model = _made(lambda given: CLIPTextModelWithProjection(CLIPTextConfig(**given)), config)
    prefix = checkpoints.PREFIXES["text_encoder_2"][0]
    converted: Any = convert_open_clip_checkpoint(model, stored, prefix=prefix)
    found = {name.removeprefix("text_model."): one for name, one in converted.items()}
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], one) for name, one in weights.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim is 256"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
        ({"down_block_types": ["AttnDownBlock2D"] * 3}, "a block is a AttnDownBlock2D"),
        ({"cross_attention_dim": None}, "does not describe an SDXL network"),
        ({"block_out_channels": "wide"}, "does not describe an SDXL network"),
    ],
)
def test_a_unet_of_another_architecture_is_refused_by_what_it_has(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        networks.unet_tensors(shipped(Kind.BASE)["unet"] | change)


def test_old_names_of_a_vaes_attention_are_known() -> None:
    place = original.old_vae("decoder.mid_block.attentions.0.to_out.0.weight", {})
    assert place.key == "decoder.mid_block.attentions.0.proj_attn.weight"
