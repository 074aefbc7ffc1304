"""The settings of the local stack: what the environment and the command line say, over what suits one machine.

Where its own Redis, bucket and node are, the stack decides by itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded.model import NATIVE_PX, demo_model
from pipeline.checkpoints.hashes import folder_revision
from pipeline.client.local_stack import heeded
from pipeline.deployment.layouts import Layout
from pipeline.deployment.model_file import added_models
from pipeline.deployment.settings import LoraSource, ModelSource, Settings, load_settings, variable_name

_NVIDIA_SMI_S = 20.0
_LOOPBACK = ("127.0.0.0/8", "::1/128")
# Ranks of a job on a CPU.
_CPU_RANKS = 2


@dataclass(frozen=True)
class Wishes:
    """What the command line says; None and nothing leave it to the environment, and that to what suits the machine.

    Attributes:
        slots: jobs that run at the same time.
        ranks: of one job.
        images_per_job: at most.
        device: what the ranks compute on.
        default_model: of rows that name none.
        loras: file by id.
        demo_model: whether the demo model is one of the models.
    """

    slots: int | None = None
    ranks: int | None = None
    images_per_job: int | None = None
    device: str | None = None
    default_model: str | None = None
    loras: Mapping[str, str] = field(default_factory=dict)
    demo_model: bool = True


def stack_settings(
    wishes: Wishes,
    services: Mapping[str, str],
    data_dir: Path,
    environ: Mapping[str, str],
    gpus: int | None = None,
    *,
    webhook_key: str | None = None,
) -> Settings:
    """The settings that every process of the stack gets.

    Args:
        wishes: of the command line.
        services: where Redis and S3 are.
        data_dir: of the stack.
        environ: of whoever starts it.
        gpus: of this machine; None: nvidia-smi is asked.
        webhook_key: of the data folder.

    Raises SettingsError naming what cannot be used.
    """
    said = heeded(environ)
    wished: dict[str, Any] = {
        "worker_slots": wishes.slots,
        "gpus": wishes.ranks,
        "images_per_job": wishes.images_per_job,
        "device": wishes.device,
    }
    chosen = {name: value for name, value in wished.items() if value is not None}
    device = chosen.get("device") or said.get(variable_name("device"), "auto")
    found = (gpus_of_machine() if gpus is None else gpus) if device != "cpu" else 0
    suits: dict[str, Any] = {"worker_slots": 1, "observe_s": 0.2, "tick_s": 1.0, "lease_s": 10.0}
    suits |= {"webhook_key": webhook_key, "webhook_networks": _LOOPBACK}
    suits |= _hardware(found, device, chosen, said)
    defaults = {name: value for name, value in suits.items() if variable_name(name) not in said and name not in chosen}
    models = {"demo": _demo(data_dir)} if wishes.demo_model else {}
    others = {**_of_environment(said, "models"), **added_models(data_dir)}
    if variable_name("default_model") not in said:
        defaults["default_model"] = wishes.default_model or ("demo" if models and others else None)
    decided: dict[str, Any] = {**defaults, **chosen, **services}
    return load_settings(
        said,
        **decided,
        models=others | models,
        loras=_of_environment(said, "loras") | {name: _lora(Path(path)) for name, path in wishes.loras.items()},
        launcher="local",
        image="local",
        data_dir=data_dir,
        log_format="json",
    )


def gpus_of_machine() -> int:
    """How many GPUs nvidia-smi lists; 0 where it is not there or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _hardware(found: int, device: str, chosen: Mapping[str, Any], said: Mapping[str, str]) -> dict[str, Any]:
    """Ranks and number formats for GPUs that were found; without any, or on a CPU, two ranks that share one image."""
    if found or device == "cuda":
        return {"gpus": max(1, found)}
    wanted = chosen.get("gpus") or said.get(variable_name("gpus"), "")
    ranks = int(wanted) if str(wanted).isdecimal() and int(wanted) else _CPU_RANKS  # else the settings refuse it
    return {"device": "cpu", "dtype": "float32", "gpus": ranks, "layout": Layout(data=1, cfg=1, patch=ranks)}


def _of_environment(said: Mapping[str, str], name: str) -> dict[str, Any]:
    """Models or LoRAs of the environment; what is no JSON object, the settings themselves refuse."""
    try:
        value = json.loads(said.get(variable_name(name), "{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _demo(data_dir: Path) -> ModelSource:
    model = demo_model(data_dir)
    return ModelSource(path=str(model), revision=folder_revision(model), native_px=NATIVE_PX)


def _lora(path: Path) -> LoraSource:
    with path.open("rb") as file:
        return LoraSource(path=str(path), sha256=hashlib.file_digest(file, "sha256").hexdigest())
