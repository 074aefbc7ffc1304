"""Files that `tessera up` is given: their options, and what is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.cli.added_files import stack_options
from pipeline.errors import BadCheckpoint, RequestError


@pytest.fixture
def face(tmp_path: Path) -> Path:
    save_file({"image_proj.proj.weight": np.zeros((8, 4), np.float32)}, tmp_path / "face.safetensors")
    for name in ("image_encoder", "other"):
        (tmp_path / name).mkdir()
        save_file({"x": np.zeros(1, np.float32)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"projection_dim": 4 if name == "other" else 8}))
    return tmp_path / "face.safetensors"


def test_an_ip_adapter_comes_with_its_encoder(face: Path) -> None:
    other = face.parent / "other"
    given = stack_options([f"film={face}"], None, None, [f"face={face},encoder={other}"])
    assert json.loads(given["loras"]) == {"film": str(face)}
    assert json.loads(given["ip_adapters"]) == {"face": [str(face), str(other)]}
    assert (given["embeddings"], given["controlnets"]) == ("{}", "{}")


def test_what_is_not_there_or_does_not_fit_is_refused(face: Path) -> None:
    with pytest.raises(BadCheckpoint, match="image_encoder gives 8: the image encoder that it was made with wanted"):
        stack_options(None, None, None, [f"face={face}"])
    with pytest.raises(RequestError, match="--ip-adapter 'face': NAME=FILE wanted, and the file must be there"):
        stack_options(None, None, None, ["face"])
    with pytest.raises(RequestError, match="--lora 'film=gone'"):
        stack_options(["film=gone"], None, None, None)
