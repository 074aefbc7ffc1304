"""Files of control networks: what is read, and what is refused and why."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter
from safetensors.torch import save_file

from distri.model.control.controlnets import ControlNet, load_controlnet
from distri.ranks.errors import BadControlNet
from pipeline.checkpoints.control_files import ControlFile, control_file_of
from pipeline.input_picture import ControlKind
from pipeline.loras.report import base_of_file
from tests.distri import networks

UNET = networks.unet(torch.float32)


def _saved(path: Path, tensors: dict[str, torch.Tensor]) -> ControlNet:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return ControlNet(path)


def test_a_file_is_the_network_that_was_saved(tmp_path: Path) -> None:
    saved = networks.controlnet(torch.float32)
    file = _saved(tmp_path / "edges.safetensors", saved.state_dict())
    digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
    read = load_controlnet(ControlNet(file.path, digest), UNET)
    wanted = {"class_embed_type", "conditioning_channels", "conditioning_embedding_out_channels", "down_block_types"}
    wanted |= {"cross_attention_dim", "mid_block_type", "global_pool_conditions", "attention_head_dim"}
    assert {name: read.config[name] for name in wanted} == {name: saved.config[name] for name in wanted}
    assert all(torch.equal(one, saved.state_dict()[name]) for name, one in read.state_dict().items())


def test_the_small_variant_without_attention_is_read(tmp_path: Path) -> None:
    config: dict[str, Any] = dict(networks.controlnet(torch.float32).config)
    config |= {"down_block_types": ["DownBlock2D"] * 3, "mid_block_type": "UNetMidBlock2D"}
    small: Any = ControlNetModel.from_config(config)
    read = load_controlnet(_saved(tmp_path / "small.safetensors", small.state_dict()), UNET)
    assert (read.config.mid_block_type, set(read.config.down_block_types)) == ("UNetMidBlock2D", {"DownBlock2D"})


@pytest.mark.parametrize("channels", [1, 3])
def test_a_t2i_adapter_is_known_by_its_tensors(tmp_path: Path, channels: int) -> None:
    kind: Any = T2IAdapter
    saved = kind(channels, [8, 16, 24, 24], 1, 16, "full_adapter_xl")
    file = _saved(tmp_path / "sketch.safetensors", saved.state_dict())
    read = load_controlnet(file, UNET)
    assert (read.config.in_channels, read.config.num_res_blocks) == (channels, 1)
    assert all(torch.equal(one, saved.state_dict()[name]) for name, one in read.state_dict().items())
    assert control_file_of(file.path) == ControlFile(kind=ControlKind.T2I_ADAPTER)
    assert base_of_file(file.path) == "SDXL"
    small = kind(channels, [8, 16, 24, 24], 1, 8, "full_adapter").state_dict()
    assert base_of_file(_saved(tmp_path / "old.safetensors", small).path) == "SD 1.x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lllite_unet_x.weight": torch.ones(2)}, "ControlNet-LLLite"),
        ({"lora_controlnet": torch.ones(1)}, "Control-LoRA"),
        (
            {"task_embedding": torch.ones(6, 8)},
            "a ControlNet-Union with task_embedding of 6x8 and spatial_ch_projs.weight of nothing",
        ),
        ({"body.0.block1.weight": torch.ones(1)}, "a T2I-Adapter in the original naming"),
        ({"adapter.conv_in.weight": torch.ones(8, 192, 3, 3)}, "a T2I-Adapter for SD 1.x"),
        ({"adapter.conv_in.weight": torch.ones(8, 768, 3, 3)}, "another base model: its features have 0, 0, 0, 0"),
        ({"input_hint_block.0.weight": torch.ones(1)}, "original naming"),
        ({"more.weight": torch.ones(1)}, "it has 1 tensors that this model's ControlNets have not"),
        ({"conv_in.weight": None}, "it lacks 1 of"),
        ({"conv_in.weight": torch.ones(8, 9, 3, 3)}, "conv_in.weight is of shape 8x9x3x3, 8x4x3x3 wanted"),
        ({"conv_in.bias": torch.full((8,), torch.nan)}, "not finite"),
        ({"add_embedding.linear_1.weight": torch.ones(32, 5)}, "another base model: it takes 5 numbers"),
    ],
)
def test_what_is_no_network_for_this_model(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors = networks.controlnet(torch.float32).state_dict() | change
    file = _saved(tmp_path / "c.safetensors", {name: one for name, one in tensors.items() if one is not None})
    with pytest.raises(BadControlNet, match=r"ControlNet c\.safetensors: ") as refusal:
        load_controlnet(file, UNET)
    assert message in str(refusal.value)


def test_another_base_another_file_and_no_file(tmp_path: Path) -> None:
    tensors = networks.controlnet(torch.float32).state_dict()
    of_sd1 = {name: torch.ones(8, 768) if name.endswith("attn2.to_k.weight") else one for name, one in tensors.items()}
    with pytest.raises(BadControlNet, match=r"made for SD 1.x: its cross-attention reads text of 768"):
        load_controlnet(_saved(tmp_path / "old.safetensors", of_sd1), UNET)
    file = _saved(tmp_path / "c.safetensors", tensors)
    with pytest.raises(BadControlNet, match="its SHA-256 is"):
        load_controlnet(ControlNet(file.path, "0" * 64), UNET)
    page = tmp_path / "page.safetensors"
    page.write_text("<html>not found</html>")
    with pytest.raises(BadControlNet, match="it is a web page"):
        load_controlnet(ControlNet(page), UNET)
