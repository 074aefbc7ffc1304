"""The settings of the local stack: what the environment and the command line say, over what suits one machine.

Where its own Redis, bucket and node are, the stack decides by itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded.model import CONTROLNETS, IP_ADAPTERS, NATIVE_PX, beside_demo, demo_model
from pipeline.checkpoints.hashes import folder_revision, hashes_of
from pipeline.checkpoints.ip_adapter import WEIGHTS
from pipeline.client.stack_environment import heeded
from pipeline.deployment.layouts import Layout
from pipeline.deployment.model_file import added_default, added_models
from pipeline.deployment.settings import (
    ControlNetSource,
    EmbeddingSource,
    IPAdapterSource,
    LoraSource,
    ModelSource,
    Settings,
    StandaloneSettings,
    load_part,
    load_settings,
    variable_name,
)

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
        loras, embeddings, controlnets: file by id.
        ip_adapters: file and image encoder's folder by id.
        demo_model: whether the demo model is one of the models.
    """

    slots: int | None = None
    ranks: int | None = None
    images_per_job: int | None = None
    device: str | None = None
    default_model: str | None = None
    loras: Mapping[str, str] = field(default_factory=dict)
    embeddings: Mapping[str, str] = field(default_factory=dict)
    controlnets: Mapping[str, str] = field(default_factory=dict)
    ip_adapters: Mapping[str, tuple[str, str]] = field(default_factory=dict)
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
    decided = _decided(wishes, data_dir, environ, gpus, webhook_key=webhook_key)
    return load_settings(heeded(environ, data_dir), **{**decided, **services})


def standalone_settings(data_dir: Path, environ: Mapping[str, str], gpus: int | None = None) -> StandaloneSettings:
    """Those of one picture without a stack, which is to come out as the stack renders it. Arguments as above."""
    return load_part(StandaloneSettings, heeded(environ, data_dir), **_decided(Wishes(), data_dir, environ, gpus))


def _decided(
    wishes: Wishes, data_dir: Path, environ: Mapping[str, str], gpus: int | None, *, webhook_key: str | None = None
) -> dict[str, Any]:
    """What is not left to the environment, or suits this machine where that says nothing."""
    said = heeded(environ, data_dir)
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
        chosen_model = wishes.default_model or added_default(data_dir)
        defaults["default_model"] = chosen_model or ("demo" if models and others else None)
    return {
        **defaults,
        **chosen,
        "models": others | models,
        "loras": _listed(said, "loras", LoraSource, wishes.loras),
        "embeddings": _listed(said, "embeddings", EmbeddingSource, wishes.embeddings),
        "controlnets": _demo_controlnets(models) | _listed(said, "controlnets", ControlNetSource, wishes.controlnets),
        "ip_adapters": _demo_adapters(models) | _of_environment(said, "ip_adapters") | _adapters(wishes.ip_adapters),
        "launcher": "local",
        "image": "local",
        "data_dir": data_dir,
        "log_format": "json",
    }


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
    """Models, LoRAs or embeddings of the environment; what is no JSON object, the settings themselves refuse."""
    try:
        value = json.loads(said.get(variable_name(name), "{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _demo(data_dir: Path) -> ModelSource:
    model = demo_model(data_dir)
    return ModelSource(path=str(model), revision=folder_revision(model), native_px=NATIVE_PX)


def _demo_controlnets(models: Mapping[str, ModelSource]) -> dict[str, Any]:
    """The control networks of the demo model, if that is one of the models."""
    return {
        name: ControlNetSource(path=str(path), sha256=hashes_of(path).sha256, models=(demo,))
        for demo, source in models.items()
        for name, path in beside_demo(CONTROLNETS, source.revision).items()
    }


def _demo_adapters(models: Mapping[str, ModelSource]) -> dict[str, Any]:
    """Likewise its IP-Adapters, each with its image encoder beside it."""
    found = {
        name: (demo, str(path))
        for demo, source in models.items()
        for name, path in beside_demo(IP_ADAPTERS, source.revision).items()
    }
    read = _adapters({name: (path, str(Path(path).parent / "image_encoder")) for name, (_, path) in found.items()})
    return {name: one.model_copy(update={"models": (found[name][0],)}) for name, one in read.items()}


def _listed(
    said: Mapping[str, str],
    name: str,
    kind: type[LoraSource | EmbeddingSource | ControlNetSource],
    wished: Mapping[str, str],
) -> dict[str, Any]:
    """A list of the environment, and over it the files of the command line."""
    files = {identity: kind(path=path, sha256=hashes_of(Path(path)).sha256) for identity, path in wished.items()}
    return _of_environment(said, name) | files


def _adapters(wished: Mapping[str, tuple[str, str]]) -> dict[str, IPAdapterSource]:
    """Those of the command line."""
    return {
        name: IPAdapterSource(
            path=path,
            sha256=hashes_of(Path(path)).sha256,
            image_encoder=encoder,
            image_encoder_sha256=hashes_of(Path(encoder) / WEIGHTS).sha256,
        )
        for name, (path, encoder) in wished.items()
    }
