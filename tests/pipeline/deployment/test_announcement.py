"""What a deployment announces, and what stands for one where there is none."""

from __future__ import annotations

import json
from typing import Any

from pipeline.deployment.announcement import Deployment
from pipeline.deployment.settings import load_settings
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
        "images_in": False,
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
