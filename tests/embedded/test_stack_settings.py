"""The local stack's settings: the command line over the environment over what suits the machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from embedded.stack_settings import Wishes, gpus_of_machine, stack_settings
from pipeline.client.stack_environment import unheeded, without_effect
from pipeline.deployment.layouts import Layout
from pipeline.deployment.model_check import source_of
from pipeline.deployment.model_file import add_model
from pipeline.deployment.settings import Settings
from pipeline.errors import SettingsError

SERVICES = {
    "redis_url": "redis://127.0.0.1:7000/0",
    "s3_endpoint": "http://127.0.0.1:7001",
    "s3_region": "here",
    "s3_bucket": "tessera",
}
_DIGESTS = ("sha256", "image_encoder_sha256")
DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"


def _settings(tmp_path: Path, environ: dict[str, str] | None = None, *, gpus: int = 0, **wishes: Any) -> Settings:
    wished = Wishes(**({"demo_model": False} | wishes))
    return stack_settings(wished, SERVICES, tmp_path, environ or {}, gpus)


def test_without_a_gpu_two_ranks_share_an_image_on_the_cpu(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    assert (settings.device, settings.dtype, settings.gpus) == ("cpu", "float32", 2)
    assert settings.layout == Layout(data=1, cfg=1, patch=2)
    assert settings.worker_slots == 1
    assert settings.images_per_job == Settings.model_fields["images_per_job"].default


def test_gpus_that_are_found_are_used_in_the_layout_that_the_planner_chooses(tmp_path: Path) -> None:
    settings = _settings(tmp_path, gpus=4)
    assert (settings.device, settings.dtype, settings.gpus, settings.layout) == ("auto", "auto", 4, None)
    assert _settings(tmp_path, gpus=4, device="cpu").gpus == 2
    assert _settings(tmp_path, gpus=4, ranks=2).gpus == 2
    assert _settings(tmp_path, device="cuda").gpus == 1


def test_the_environment_holds_where_the_command_line_says_nothing(tmp_path: Path) -> None:
    environ = {"TESSERA_GPUS": "3", "TESSERA_WORKER_SLOTS": "5", "TESSERA_MAX_ROWS": "7", "TESSERA_EXACT": "true"}
    settings = _settings(tmp_path, environ)
    assert (settings.gpus, settings.worker_slots, settings.max_rows, settings.exact) == (3, 5, 7, True)
    assert settings.layout == Layout(data=1, cfg=1, patch=3)
    assert _settings(tmp_path, environ, ranks=1).gpus == 1


def test_what_the_stack_decides_by_itself_is_named(tmp_path: Path) -> None:
    environ = {"TESSERA_REDIS_URL": "redis://elsewhere", "TESSERA_DATA_DIR": "/x", "TESSERA_GPUS": "1", "HOME": "/"}
    assert unheeded(environ) == ["TESSERA_REDIS_URL"]
    assert _settings(tmp_path, environ).redis_url.get_secret_value() == SERVICES["redis_url"]


def test_what_a_running_stack_has_otherwise_is_named(tmp_path: Path) -> None:
    settings = _settings(tmp_path, {"TESSERA_GPUS": "2", "TESSERA_EXACT": "true"})
    running = settings.environment()
    same = {"TESSERA_GPUS": "2", "TESSERA_EXACT": "1", "TESSERA_DATA_DIR": "/x", "TESSERA_URL": "", "HOME": "/"}
    assert without_effect(same, running) == []
    others = {"TESSERA_GPUS": "4", "TESSERA_EXACT": "no", "TESSERA_S3_BUCKET": "other", "TESSERA_MAX_ROWS": "many"}
    assert without_effect(others, running) == sorted(others)


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TESSERA_GPU: no such setting; did you mean TESSERA_GPUS"):
        _settings(tmp_path, {"TESSERA_GPU": "2"})


def test_a_file_in_the_data_folder_holds_below_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text("# this machine\nTESSERA_DEVICE = cpu\n\nTESSERA_GPUS=3\nTESSERA_MAX_ROWS=7\n")
    settings = _settings(tmp_path, {"TESSERA_GPUS": "1"}, gpus=4)
    assert (settings.device, settings.gpus, settings.max_rows) == ("cpu", 1, 7)
    assert _settings(tmp_path, ranks=2).gpus == 2
    for text, problem in {
        "DEVICE=cpu": r"line 1: 'DEVICE' found; TESSERA_NAME=VALUE or # wanted",
        "\nTESSERA_S3_BUCKET=b": "line 2: TESSERA_S3_BUCKET: the local stack decides that by itself",
        "TESSERA_GPU=2": "TESSERA_GPU: no such setting; did you mean TESSERA_GPUS",
    }.items():
        file.write_text(text)
        with pytest.raises(SettingsError, match=problem):
            _settings(tmp_path)


def test_the_model_that_was_chosen_once_stays_the_default(tmp_path: Path) -> None:
    add_model(tmp_path, "mine", source_of(DEMO), default=True)
    add_model(tmp_path, "other", source_of(DEMO))
    assert _settings(tmp_path).default_model == "mine"
    assert _settings(tmp_path, default_model="other").default_model == "other"


def test_added_models_are_offered_and_the_one_of_the_command_line_is_the_default(tmp_path: Path) -> None:
    source = source_of(DEMO)
    assert source.native_px == 256
    add_model(tmp_path, "mine", source)
    settings = _settings(
        tmp_path, {"TESSERA_MODELS": '{"theirs": {"path": "/m", "revision": "1"}}'}, default_model="mine"
    )
    assert sorted(settings.models) == ["mine", "theirs"]
    assert settings.default_model == "mine"
    assert settings.models["mine"] == source


def test_gpus_are_counted_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_of_machine() == 2
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpus_of_machine() == 0
    program.unlink()
    assert gpus_of_machine() == 0


def test_files_of_the_command_line_go_over_those_of_the_environment(tmp_path: Path) -> None:
    for name in ("film", "dark"):
        save_file({"x": np.zeros((1, 8), np.float32)}, tmp_path / f"{name}.safetensors")
    listed = json.dumps({"dark": {"path": "/other", "sha256": "0" * 64}, "dim": {"path": "/dim", "sha256": "1" * 64}})
    wished: dict[str, Any] = {
        name: {one: str(tmp_path / f"{one}.safetensors")} for name, one in (("loras", "film"), ("embeddings", "dark"))
    }
    settings = _settings(tmp_path, {"TESSERA_EMBEDDINGS": listed}, **wished)
    digest = hashlib.sha256((tmp_path / "dark.safetensors").read_bytes()).hexdigest()
    assert settings.loras["film"].sha256 == digest  # of equal files
    assert (settings.embeddings["dark"].path, settings.embeddings["dark"].sha256) == (
        wished["embeddings"]["dark"],
        digest,
    )
    assert settings.embeddings["dim"].path == "/dim"


def test_an_ip_adapter_of_the_command_line_is_pinned_with_its_image_encoder(tmp_path: Path) -> None:
    folder = tmp_path / "image_encoder"
    folder.mkdir()
    for path, number in ((tmp_path / "face.safetensors", 0), (folder / "model.safetensors", 1)):
        save_file({"x": np.full((1, 8), number, np.float32)}, path)
    said = {"style": dict.fromkeys(("path", "image_encoder"), "/s") | dict.fromkeys(_DIGESTS, "0" * 64)}
    face = {"face": (str(tmp_path / "face.safetensors"), str(folder))}
    listed = _settings(tmp_path, {"TESSERA_IP_ADAPTERS": json.dumps(said)}, ip_adapters=face).ip_adapters
    assert sorted(listed) == ["face", "style"]
    found = [listed["face"].sha256, listed["face"].image_encoder_sha256]
    paths = (tmp_path / "face.safetensors", folder / "model.safetensors")
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_what_was_trained_for_the_demo_model_can_be_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "demo").symlink_to(DEMO)
    settings = _settings(tmp_path, demo_model=True)
    (found,) = settings.ip_adapters.items()
    assert (found[0], found[1].models) == ("scene", ("demo",))
    assert Path(found[1].image_encoder) == DEMO.parent / "scene" / "image_encoder"
    (network,) = settings.controlnets.items()
    assert (network[0], network[1].models) == ("canny", ("demo",))
    assert Path(network[1].path) == DEMO.parent / "canny" / "diffusion_pytorch_model.safetensors"
    assert (_settings(tmp_path).ip_adapters, _settings(tmp_path).controlnets) == ({}, {})
    own = json.dumps({"scene": found[1].model_dump(mode="json") | {"sha256": "0" * 64}})
    assert _settings(tmp_path, {"TESSERA_IP_ADAPTERS": own}, demo_model=True).ip_adapters["scene"].sha256 == "0" * 64
