"""What listed files say where they can be seen from here, as on one machine; a cluster's controller cannot see them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pipeline.checkpoints.clip import has_clip_vocabulary
from pipeline.checkpoints.consistency import LATENT_CHANNELS, inpaints
from pipeline.checkpoints.control_files import ControlFile, control_file_of
from pipeline.checkpoints.folders import read_json
from pipeline.checkpoints.header import read_header
from pipeline.checkpoints.kinds import in_channels
from pipeline.deployment.allowed import AllowedControlNet, AllowedFile
from pipeline.deployment.settings import AddedFile, ModelSource
from pipeline.errors import BadCheckpoint
from pipeline.loras.report import base_of_file


def clip_vocabulary(model: ModelSource) -> bool:
    """As the settings say, or the model's folder where it can be seen from here; every SDXL model's is CLIP's."""
    if model.clip_vocabulary is not None:
        return model.clip_vocabulary
    tokenizer = Path(model.path) / "tokenizer"
    changed = tokenizer.stat().st_mtime if tokenizer.is_dir() else None
    return _looked_up(model.path, changed)


@functools.lru_cache(maxsize=256)
def _looked_up(path: str, _changed: float | None) -> bool:
    found = has_clip_vocabulary(Path(path))
    return True if found is None else found


def inpainting_seen(model: ModelSource) -> bool | None:
    """As the settings say, or the model's UNet where it can be seen from here; None if neither."""
    if model.inpainting is not None:
        return model.inpainting
    config = Path(model.path) / "unet" / "config.json"
    unet = config if config.is_file() else Path(model.path)
    try:
        return _inpaints(unet, unet.stat().st_mtime)
    except (OSError, BadCheckpoint):
        return None  # the pod says what is wrong with it


@functools.lru_cache(maxsize=256)
def _inpaints(unet: Path, _changed: float) -> bool:
    """Of a configuration, or of a single file, which gives latents of SDXL's four channels."""
    if unet.suffix == ".json":
        return inpaints(read_json(unet))
    return inpaints({"in_channels": in_channels(read_header(unet).tensors), "out_channels": LATENT_CHANNELS})


_File = TypeVar("_File", bound=AllowedFile)


def allowed_files(kind: type[_File], files: Mapping[str, AddedFile], bases: Mapping[str, str]) -> dict[str, _File]:
    """Listed files as they are announced, with the bases of those that are known or can be seen from here."""
    return {
        name: kind(models=one.models, names=one.names, base=bases.get(one.sha256) or base_seen(one.path))
        for name, one in files.items()
    }


def allowed_controlnets(
    files: Mapping[str, AddedFile], bases: Mapping[str, str], known: Mapping[str, ControlFile]
) -> dict[str, AllowedControlNet]:
    """Likewise of control networks, with what they are."""
    return {
        name: one.model_copy(update={"file": known.get(files[name].sha256) or control_file_seen(files[name].path)})
        for name, one in allowed_files(AllowedControlNet, files, bases).items()
    }


def base_seen(path: str) -> str | None:
    """The base of a file that can be seen from here, as on one machine."""
    try:
        return _base_of(path, Path(path).stat().st_mtime)
    except (OSError, BadCheckpoint):
        return None  # the pod says what is wrong with it


def control_file_seen(path: str) -> ControlFile | None:
    """What a control network's file is, if it can be seen from here."""
    try:
        return _control_file_of(path, Path(path).stat().st_mtime)
    except (OSError, BadCheckpoint):
        return None


@functools.lru_cache(maxsize=1024)
def _control_file_of(path: str, _changed: float) -> ControlFile | None:
    return control_file_of(Path(path))


@functools.lru_cache(maxsize=1024)
def _base_of(path: str, _changed: float) -> str | None:
    return base_of_file(Path(path))
