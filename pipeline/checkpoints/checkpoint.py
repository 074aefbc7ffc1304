"""A model as it lies there, opened: which of SDXL's it is, and where every tensor of its networks stands.

`open_checkpoint` reads headers and configurations, in milliseconds, and refuses whatever could not be rendered with, so
that a client, the warm-up Job and a pod find the same and say the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipeline.checkpoints.consistency import check_together, inpaints
from pipeline.checkpoints.folders import kind_of_folder, part_headers, read_json
from pipeline.checkpoints.header import Header, read_header
from pipeline.checkpoints.kinds import Kind, in_channels, kind_of
from pipeline.checkpoints.matching import FP8, TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE, Network, match, surplus
from pipeline.checkpoints.schedulers import Prediction, own_scheduler, trained_as, zero_terminal_snr
from pipeline.checkpoints.tokenizers import find_tokenizers
from pipeline.errors import BadCheckpoint

NETWORKS = {Kind.BASE: (UNET, VAE, TEXT_ENCODER, TEXT_ENCODER_2), Kind.REFINER: (UNET, TEXT_ENCODER_2)}
_NAMED = 5


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies, as a setting says it.

    Attributes:
        path: a single safetensors file, or a folder of a diffusers pipeline.
        variant: of the folder's weights, `fp16`, say.
        vae: file or folder of another VAE.
        text_encoders: file or folder that the text encoders are taken from.
        config: folder of a diffusers pipeline whose configurations and tokenizers describe a single file that has
            not SDXL's size.
        prediction: what the network predicts; None is what the files say.
        zero_snr: whether it was trained down to pure noise; None is what the files say.
    """

    path: Path
    variant: str | None = None
    vae: Path | None = None
    text_encoders: Path | None = None
    config: Path | None = None
    prediction: Prediction | None = None
    zero_snr: bool | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be loaded.

    Attributes:
        name: of its file or folder.
        kind: base or refiner.
        networks: by name: unet, vae, text_encoder, text_encoder_2; of a refiner, which renders with its base model's
            VAE and first encoder, unet and text_encoder_2.
        scheduler: configuration of the model's own scheduler.
        tokenizers: by name, the folder; None is CLIP's own, which this package has.
        zeros_for_none: whether a missing negative prompt means zeroed embeddings.
        notes: what a user may want to know of how it was read.
    """

    name: str
    kind: Kind
    networks: Mapping[str, Network]
    scheduler: Mapping[str, Any]
    tokenizers: Mapping[str, Path | None]
    zeros_for_none: bool
    notes: tuple[str, ...]

    @property
    def inpaints(self) -> bool:
        """Whether it reads a mask and what is around it beside the latent, and so renders masked pictures alone."""
        return inpaints(self.networks[UNET].config)


@dataclass(frozen=True)
class _Described:
    """What is known of a model before its weights are looked at."""

    kind: Kind
    configs: Mapping[str, Mapping[str, Any]]
    scheduler: Mapping[str, Any]
    zeros_for_none: bool
    folder: Path | None  # its tokenizers' parent


def open_checkpoint(model: ModelFiles, *, wanted: Kind | None = None) -> Checkpoint:
    """Open a model's files. Raises BadCheckpoint: they cannot be rendered with, and why.

    Args:
        model: where it lies.
        wanted: that it must be the base model, or the refiner; None is either.
    """
    if not model.path.exists():
        raise BadCheckpoint(f"{model.path} is not there")
    is_folder = model.path.is_dir()
    headers = [] if is_folder else [read_header(model.path)]
    described = _of_folder(model.path) if is_folder else _of_file(model, headers[0])
    if wanted is not None and described.kind is not wanted:
        hint = "name it as the `refiner` of a base model" if wanted is Kind.BASE else "a refiner wanted here"
        raise BadCheckpoint(f"{model.path.name} is SDXL's {described.kind} model: {hint}")
    notes: list[str] = []
    networks = {name: _network(name, model, described, headers, notes) for name in NETWORKS[described.kind]}
    scheduler = own_scheduler(described.scheduler, model.path.name)
    found, reasons = trained_as(headers, model.prediction)
    scheduler |= found | _as_set(model)
    if described.kind is Kind.BASE and (extra := surplus(headers, networks.values())):
        shown = ", ".join(extra[:_NAMED])
        notes.append(f"{len(extra)} tensors are not used: {shown}" + (" and more" if len(extra) > _NAMED else ""))
    checkpoint = Checkpoint(
        model.path.name,
        described.kind,
        networks,
        scheduler,
        find_tokenizers(described.folder, networks, model.path.name),
        described.zeros_for_none,
        (*reasons, *notes),
    )
    check_together(checkpoint.name, {name: network.config for name, network in networks.items()}, described.kind)
    return checkpoint


def shipped(kind: Kind) -> dict[str, Any]:
    """SDXL's own configurations, which single files do not hold."""
    content: dict[str, Any] = json.loads(files("pipeline.checkpoints").joinpath(f"data/{kind}.json").read_text())
    return content


def _of_folder(folder: Path) -> _Described:
    kind, index = kind_of_folder(folder)
    configs = {name: read_json(folder / name / "config.json") for name in NETWORKS[kind]}
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    zeros = bool(index.get("force_zeros_for_empty_prompt", kind is Kind.BASE))
    return _Described(kind, configs, scheduler, zeros, folder)


def _of_file(model: ModelFiles, header: Header) -> _Described:
    kind = kind_of(header.tensors, model.path.name, of_any_size=model.config is not None)
    if model.config is not None:
        return _of_folder(model.config)
    own = shipped(kind)
    configs = {name: own[name] for name in NETWORKS[kind]}
    read = configs[UNET] | {"in_channels": in_channels(header.tensors)}
    if kind is Kind.BASE and inpaints(read):
        configs[UNET] = read
    return _Described(kind, configs, own["scheduler"], own["zeros_for_none"], None)


def _network(
    name: str, model: ModelFiles, described: _Described, headers: Sequence[Header], notes: list[str]
) -> Network:
    """One network, from wherever the setting takes it."""
    config = described.configs[name]
    other = model.vae if name == VAE else model.text_encoders if name in (TEXT_ENCODER, TEXT_ENCODER_2) else None
    if other is not None:
        network = _from_elsewhere(name, config, other, model.variant)
        notes.append(f"its {name} comes from {other.name}")
    elif headers:
        network = match(name, config, headers, alone=name == UNET, what=model.path.name)
    else:
        found = part_headers(model.path / name, model.variant)
        network = match(name, config, found, alone=True, what=f"{model.path.name}/{name}")
    if network is None:
        setting = "vae" if name == VAE else "text_encoders"
        raise BadCheckpoint(
            f"{(other or model.path).name} holds no {name}"
            + ("" if name == UNET else f": name a file or folder that has it as the model's `{setting}`")
        )
    if FP8 & set(network.dtypes):
        notes.append(f"its {name} is stored in fp8 and is computed in the model's number format")
    return network


def _from_elsewhere(name: str, config: Mapping[str, Any], path: Path, variant: str | None) -> Network | None:
    """A network from a file, from another pipeline's folder, or from a folder of its own with its configuration."""
    if not path.exists():
        raise BadCheckpoint(f"{path} is not there, from which the {name} was to come")
    if not path.is_dir():
        return match(name, config, [read_header(path)], alone=name == VAE, what=path.name)
    folder = path / name if (path / name).is_dir() else path
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
    return match(name, config, part_headers(folder, variant), alone=True, what=f"{path.name} ({name})")


def _as_set(model: ModelFiles) -> dict[str, Any]:
    """What the setting says of the scheduler, over what the files say."""
    settings: dict[str, Any] = {} if model.prediction is None else {"prediction_type": model.prediction}
    if model.zero_snr is not None:
        settings |= zero_terminal_snr() if model.zero_snr else {"rescale_betas_zero_snr": False}
    return settings
