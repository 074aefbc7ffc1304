"""What a model's files are found to be, and the setting that names them; reads headers, and whole files for hashes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoints.checkpoint import Checkpoint, ModelFiles, open_checkpoint
from pipeline.checkpoints.folders import read_json, variants
from pipeline.checkpoints.hashes import Hashes, folder_revision, hashes_of
from pipeline.checkpoints.kinds import Kind
from pipeline.deployment.settings import ModelSource
from pipeline.errors import BadCheckpoint

# Pixels of one side of a latent pixel, with SDXL's VAE.
PX_OF_LATENT = 8

_UNFIT = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True)
class FoundModel:
    """A model that can be rendered with.

    Attributes:
        checkpoint: what its files hold.
        refiner: what its refiner's files hold; None is none.
    """

    checkpoint: Checkpoint
    refiner: Checkpoint | None = None

    def lines(self) -> list[str]:
        """What a user wants to know, a line each."""
        networks = [
            f"{name} ({len(network.tensors)} tensors, {'/'.join(network.dtypes)})"
            for name, network in self.checkpoint.networks.items()
        ]
        scheduler = self.checkpoint.scheduler
        trained = f"{scheduler['_class_name']}, {scheduler.get('prediction_type', 'epsilon')}"
        if scheduler.get("rescale_betas_zero_snr"):
            trained += ", zero terminal SNR"
        inpainting = " for inpainting" if self.checkpoint.inpaints else ""
        lines = [
            f"SDXL {self.checkpoint.kind}{inpainting}: {', '.join(networks)}",
            f"scheduler: {trained}",
            "tokenizers: " + ("CLIP's own" if None in self.checkpoint.tokenizers.values() else "of its folder"),
        ]
        if self.refiner is not None:
            lines.append(f"refiner: {self.refiner.name}, {len(self.refiner.networks['unet'].tensors)} tensors")
        return [*lines, *self.checkpoint.notes]


def check_model(source: ModelSource, *, whole: bool = False) -> FoundModel:
    """Open a model's files and those of its refiner.

    Args:
        source: the model.
        whole: also read a file that its setting pins, and compare its hash.

    Raises:
        BadCheckpoint: they cannot be rendered with, or are not what the setting pins, and why.
    """
    checkpoint = open_checkpoint(source.files, wanted=Kind.BASE)
    if whole and source.sha256 is not None and (found := hashes_of(Path(source.path)).sha256) != source.sha256:
        raise BadCheckpoint(f"{checkpoint.name} has SHA-256 {found}, its setting says {source.sha256}")
    if source.inpainting not in (None, checkpoint.inpaints):
        found = "fills masks (nine channels)" if checkpoint.inpaints else "fills no masks (four channels)"
        raise BadCheckpoint(f"{checkpoint.name} {found}, its setting says inpainting {source.inpainting}")
    refiner = None
    if source.refiner is not None:
        refiner = open_checkpoint(source.refiner.files, wanted=Kind.REFINER)
    return FoundModel(checkpoint, refiner)


def revision_of(path: Path) -> tuple[str, Hashes | None]:
    """What pins a model: the start of its file's SHA-256, or of its folder's files; and a file's hashes."""
    if path.is_dir():
        return folder_revision(path), None
    hashes = hashes_of(path)
    return hashes.sha256[:16], hashes


def source_of(path: Path) -> ModelSource:
    """The setting of a model of which only its place is said, checked; its native size is that of its UNet's samples.

    Args:
        path: absolute, of a `.safetensors` file or of a folder of a diffusers pipeline.

    Raises:
        BadCheckpoint: it cannot be rendered with, and why.
    """
    source = ModelSource(path=str(path), revision="unknown", variant=only_variant(ModelFiles(path)))
    checkpoint = check_model(source).checkpoint
    revision, hashes = revision_of(path)
    found: dict[str, Any] = {"revision": revision, "sha256": hashes.sha256 if hashes is not None else None}
    if checkpoint.inpaints:
        found["inpainting"] = True
    if path.is_dir() and isinstance(side := read_json(path / "unet" / "config.json").get("sample_size"), int):
        found["native_px"] = side * PX_OF_LATENT
    return source.model_copy(update=found)


def only_variant(files: ModelFiles) -> str | None:
    """The variant that a folder's UNet has weights of, if it has none without; of several, none is chosen."""
    there = variants(files.path / "unet") if files.path.is_dir() else []
    return there[0] if len(there) == 1 and there[0] else None


def model_id(path: Path) -> str:
    """An id for a model, from its file's or folder's name."""
    name = _UNFIT.sub("-", path.name.removesuffix(".safetensors").lower()).strip("-.")
    if not name:
        raise BadCheckpoint(f"{path.name!r} gives no id for a model; name one with --id")
    return name[:64]
