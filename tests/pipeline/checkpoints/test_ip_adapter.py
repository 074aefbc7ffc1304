"""IP-Adapters beside image encoders as h94/IP-Adapter lays them out, and pairs that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.checkpoints.ip_adapter import encoder_of
from pipeline.errors import BadCheckpoint
from pipeline.loras.report import base_of_file

BIG_G = {"hidden_size": 1664, "projection_dim": 1280}
VIT_H = {"hidden_size": 1280, "projection_dim": 1024}


def _adapter(path: Path, tensor: str, shape: tuple[int, int], width: int = 2048) -> Path:
    stored = {tensor: np.zeros(shape, np.float16), "ip_adapter.1.to_k_ip.weight": np.zeros((4, width), np.float16)}
    save_file(stored, path)
    return path


def _encoder(folder: Path, config: dict[str, int], weights: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"visual_projection.weight": np.zeros((2, 2), np.float16)}, folder / weights)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Both encoders where h94's repository has them."""
    _encoder(tmp_path / "models" / "image_encoder", VIT_H)
    _encoder(tmp_path / "sdxl_models" / "image_encoder", BIG_G)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "where"),
    [
        ("ip-adapter_sdxl", "image_proj.proj.weight", (8, 1280), "sdxl_models"),
        ("ip-adapter_sdxl_vit-h", "image_proj.proj.weight", (8, 1024), "models"),
        ("ip-adapter-plus_sdxl_vit-h", "image_proj.proj_in.weight", (8, 1280), "models"),
    ],
)
def test_the_encoder_that_fits_is_found(
    folder: Path, name: str, tensor: str, shape: tuple[int, int], where: str
) -> None:
    path = _adapter(folder / "sdxl_models" / f"{name}.safetensors", tensor, shape)
    assert encoder_of(path) == folder / where / "image_encoder"
    assert base_of_file(path) == "SDXL"
    named = folder / "models" / "image_encoder"
    if where == "models":
        assert encoder_of(path, named) == named
    else:
        with pytest.raises(BadCheckpoint, match=r"reads 1280 numbers of a picture \(projection_dim\), and .* 1024"):
            encoder_of(path, named)


def test_an_adapter_of_another_base_is_known_by_its_tokens(folder: Path) -> None:
    path = folder / "ip-adapter_sd15.safetensors"
    assert base_of_file(_adapter(path, "image_proj.proj.weight", (8, 1024), width=768)) == "SD 1.x"


@pytest.mark.parametrize(
    ("tensor", "message"),
    [("image_proj.proj.0.weight", "FaceID is not"), ("unet.proj.weight", "no IP-Adapter")],
)
def test_what_is_no_adapter_of_these_kinds_is_refused(folder: Path, tensor: str, message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        encoder_of(_adapter(folder / "other.safetensors", tensor, (8, 512)))


def test_an_encoder_that_is_missing_or_a_pickle_is_refused(tmp_path: Path) -> None:
    path = _adapter(tmp_path / "plain.safetensors", "image_proj.proj.weight", (8, 1280))
    with pytest.raises(BadCheckpoint, match="no folder image_encoder beside it; encoder=FOLDER wanted"):
        encoder_of(path)
    with pytest.raises(BadCheckpoint, match="a file found; the folder of a CLIP image encoder wanted"):
        encoder_of(path, path)
    with pytest.raises(BadCheckpoint, match=r"pytorch_model\.bin is a pickle"):
        encoder_of(path, _encoder(tmp_path / "pickled", BIG_G, "pytorch_model.bin"))
    with pytest.raises(BadCheckpoint, match=r"ip-adapter_sdxl\.bin is a pickle"):
        encoder_of(tmp_path / "ip-adapter_sdxl.bin", _encoder(tmp_path / "whole", BIG_G))
    (tmp_path / "whole" / "config.json").write_text("[]")
    with pytest.raises(BadCheckpoint, match="no JSON object"):
        encoder_of(path, tmp_path / "whole")
