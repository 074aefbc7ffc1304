"""The local stack's settings: the command line over the environment over what suits the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedded.stack_settings import Wishes, gpus_of_machine, stack_settings
from pipeline.client.local_stack import unheeded
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


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TESSERA_GPU: no such setting; did you mean TESSERA_GPUS"):
        _settings(tmp_path, {"TESSERA_GPU": "2"})


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
