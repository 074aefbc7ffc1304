"""What is said of a LoRA file by its header, and by the command."""

import json
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.exits import OK, USAGE
from pipeline.cli.main import app
from pipeline.errors import BadCheckpoint
from pipeline.loras.report import report

UP, DOWN = "lora_up.weight", "lora_down.weight"
Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def _file(folder: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of zeros, without a library."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    body = json.dumps(header).encode()
    path = folder / "style.safetensors"
    path.write_bytes(struct.pack("<Q", len(body)) + body + bytes(place))
    return path


FITTING: dict[str, tuple[int, ...]] = {
    f"{Q}.{DOWN}": (8, 2048),
    f"{Q}.{UP}": (640, 8),
    f"{Q}.alpha": (),
    f"{Q}.dora_scale": (640, 1),
    f"lora_unet_down_blocks_0_resnets_0_conv1.{DOWN}": (4, 320, 3, 3),
    f"lora_unet_down_blocks_0_resnets_0_conv1.{UP}": (320, 4, 1, 1),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": (3072, 4),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_b": (4, 768),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w2_a": (3072, 4),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w2_b": (4, 768),
    "lora_te2_text_projection.diff": (1280, 1280),
    "lora_te2_text_projection.diff_b": (4,),
    f"lora_te3_layer.{UP}": (4, 4),
    f"lora_unet_conv_in.{UP}": (4, 4),
    f"lora_unet_conv_out.{UP}": (4, 4),
    f"lora_unet_conv_out.{DOWN}": (4, 4),
    "bundle_emb.glow.clip_l": (4, 768),
}


def test_a_file_is_described_by_its_header(tmp_path: Path) -> None:
    found = report(_file(tmp_path, FITTING, {"ss_network_module": "lycoris.kohya", "ss_base_model_version": "sdxl"}))
    assert (found.base, found.trainer, found.refusal) == ("SDXL", "LyCORIS in kohya's scripts", None)
    assert found.layers == {
        "unet": {"LoRA": 2},
        "text_encoder": {"LoHa": 1},
        "text_encoder_2": {"difference": 1},
    }
    assert found.ranks == {8: 1, 4: 2}
    assert found.decomposed == 1
    assert found.embeddings == ("glow",)
    assert found.unused == {
        "SDXL has no such layers": ("lora_te3_layer",),
        "no known kind of LoRA, or not all of one": ("lora_unet_conv_in",),
        "their shapes are not SDXL's": ("lora_unet_conv_out",),
    }


@pytest.mark.parametrize(
    ("shapes", "refusal"),
    [
        ({f"{Q}.{DOWN}": (8, 768), f"{Q}.{UP}": (320, 8)}, "made for SD 1.x"),
        ({"lora_unet_double_blocks_0_x.lora_down.weight": (4, 4)}, "made for Flux"),
        ({"nothing": (4,)}, "nothing in it fits SDXL"),
        ({"image_proj.proj.weight": (4, 4), "ip_adapter.1.to_k_ip.weight": (4, 4)}, "it is an IP-Adapter"),
        ({"controlnet_cond_embedding.conv_in.weight": (4, 3, 3, 3)}, "it is a ControlNet"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "it is an embedding, which TESSERA_EMBEDDINGS lists"),
        ({"model.diffusion_model.out.0.weight": (4,)}, "it is a whole checkpoint, which TESSERA_MODELS lists"),
        ({"first_stage_model.decoder.conv_in.weight": (4, 4)}, "it is a VAE, which belongs beside a model"),
    ],
)
def test_a_file_for_another_base_is_refused_by_the_command(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], refusal: str
) -> None:
    answer = CliRunner().invoke(app, ["lora", "check", str(_file(tmp_path, shapes))], standalone_mode=False)
    assert answer.return_value == USAGE
    assert refusal in answer.stdout


def test_the_command_says_it_in_lines_and_in_json(tmp_path: Path) -> None:
    path = _file(tmp_path, FITTING | {"lora_unet_\x1b[31m.diff": (4,)})
    answer = CliRunner().invoke(app, ["lora", "check", str(path)], standalone_mode=False)
    assert answer.return_value == OK
    assert "text_encoder LoHa" not in answer.stdout
    assert "rank         4 (2 layers), 8 (1 layers)" in answer.stdout
    assert "\x1b" not in answer.stdout
    content = json.loads(CliRunner().invoke(app, ["lora", "check", str(path), "--json"], standalone_mode=False).stdout)
    assert content["refusal"] is None
    assert content["layers"]["text_encoder"] == {"LoHa": 1}


def test_what_is_no_safetensors_file_is_named(tmp_path: Path) -> None:
    page = tmp_path / "style.safetensors"
    page.write_text("<!doctype html>")
    with pytest.raises(BadCheckpoint, match="web page"):
        report(page)
