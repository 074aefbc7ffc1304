"""What a deployment announces, and what stands for one where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from pipeline.deployment.announcement import Deployment
from pipeline.deployment.settings import EmbeddingSource, LoraSource, load_settings
from pipeline.schema import read_record

# What a controller announced that knew no more.
OLD: dict[str, Any] = {
    "version": "0",
    "models": {},
    "default_model": None,
    "max_megapixels": 64.0,
    "max_rows": 1000,
    "layout": "1x2x4",
}


def test_what_an_older_controller_does_not_say_is_the_settings_default() -> None:
    settings = load_settings({"TESSERA_REDIS_URL": "redis://h:1/0", "TESSERA_S3_BUCKET": "b"}, max_rows=1000)
    unsaid: dict[str, Any] = {
        "image": None,
        "prompt_buckets": None,
        "syntaxes": (),
        "guidance_intervals": False,
        "displacements": False,
        "settling": False,
        "images_in": False,
        "masks": False,
        "mask_rounds": False,
        "cascades": False,
        "cascade_guidance": False,
        "control": False,
        "references": False,
    }
    unsaid |= {"highres_attention": None, "pods": {}}
    wanted = Deployment.of(settings, "0").model_copy(update=unsaid)
    assert read_record(Deployment, json.dumps(OLD | {"schema_version": 1}), what="an announcement") == wanted


def test_any_deployment_renders_every_model_and_size() -> None:
    deployment = Deployment.any()
    assert "whatever" in deployment.models
    assert deployment.models["whatever"].native_px == 1024
    assert deployment.loras["grain"].fits("whatever")
    assert deployment.usual_layout(64, 64).gpus == 1


def test_a_lora_that_can_be_seen_has_its_base_and_one_that_cannot_what_is_known_of_its_digest(tmp_path: Path) -> None:
    save_file({"unet.x.attn2.to_k.lora_A.weight": np.zeros((2, 768), np.float32)}, tmp_path / "old.safetensors")
    (tmp_path / "page.safetensors").write_text("<html>")
    sha = {name: letter * 64 for name, letter in (("old", "a"), ("page", "b"), ("far", "c"), ("unknown", "d"))}
    files = {name: LoraSource(path=str(tmp_path / f"{name}.safetensors"), sha256=sha[name]) for name in sha}
    dark = EmbeddingSource(path="/models/dark.safetensors", sha256="e" * 64)
    settings = load_settings(
        {"TESSERA_REDIS_URL": "redis://h:1/0", "TESSERA_S3_BUCKET": "b"}, loras=files, embeddings={"dark": dark}
    )
    found = Deployment.of(settings, "0", {sha["far"]: "Flux", dark.sha256: "SD 2.x"})
    bases = {name: lora.base for name, lora in found.loras.items()}
    assert bases == {"old": "SD 1.x", "page": None, "far": "Flux", "unknown": None}
    assert found.embeddings["dark"].refusal == "was made for SD 2.x, not for SDXL"
    again = read_record(Deployment, found.model_dump_json(), what="an announcement")
    assert again == found
    assert '"base":null' not in found.model_dump_json()
