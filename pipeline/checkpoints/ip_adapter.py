"""IP-Adapters and the image encoders that they were made with, as they lie there: whether the two fit, from headers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoints.header import Header, read_header
from pipeline.errors import BadCheckpoint

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_PICKLE = "pytorch_model.bin"
_NAME = "image_encoder"
# What reads a picture, of kinds whose `image_proj` reads something else than CLIP's embedding or hidden states.
_OTHERS = ("image_proj.proj.0.", "image_proj.perceiver_resampler.")


@dataclass(frozen=True)
class EncoderFolder:
    """A CLIP image encoder's folder, of which only its two files are read.

    Attributes:
        path: of the folder.
        config: what its `config.json` says.
        header: of its weights.
    """

    path: Path
    config: Mapping[str, Any]
    header: Header

    @classmethod
    def read(cls, folder: Path) -> EncoderFolder:
        """Raises BadCheckpoint: it is none, or has only a pickle."""
        weights = folder / WEIGHTS
        if not folder.is_dir():
            kind = "a file" if folder.exists() else "nothing"
            raise BadCheckpoint(f"{folder}: {kind} found; the folder of a CLIP image encoder wanted")
        if not weights.exists() and (folder / _PICKLE).exists():
            read_header(folder / _PICKLE)  # which says why it is not read
        try:
            config = json.loads((folder / CONFIG).read_text())
        except (OSError, ValueError) as error:
            raise BadCheckpoint(f"{folder / CONFIG} cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise BadCheckpoint(f"{folder / CONFIG} is no JSON object")
        return cls(folder, config, read_header(weights))


def encoder_of(adapter: Path, folder: Path | None = None) -> Path:
    """The folder of the image encoder that an adapter was made with: the one given, or one that lies where h94's do.

    Raises BadCheckpoint: the adapter is none for SDXL's pipelines, or no encoder fits it.
    """
    name, wanted = _reads(read_header(adapter))
    tried = [folder] if folder is not None else [one for one in _beside(adapter) if one.is_dir()]
    found = []
    for one in tried:
        given = EncoderFolder.read(one).config.get(name)
        if given == wanted:
            return one
        found.append(f"{one} gives {given}")
    if not found:
        raise BadCheckpoint(f"{adapter.name}: no folder {_NAME} beside it; encoder=FOLDER wanted")
    raise BadCheckpoint(
        f"{adapter.name} reads {wanted} numbers of a picture ({name}), and {', '.join(found)}: the image encoder that "
        "it was made with wanted"
    )


def _beside(adapter: Path) -> Iterator[Path]:
    yield adapter.parent / _NAME
    yield adapter.parent.parent / "models" / _NAME  # of ViT-H, which SDXL's adapters of that name share with SD 1.5's


def _reads(header: Header) -> tuple[str, int]:
    """What of an encoder's config an adapter's numbers must be, and how many it reads."""
    shapes = {key: tensor.shape for key, tensor in header.tensors.items()}
    if any(key.startswith(_OTHERS) for key in shapes):
        raise BadCheckpoint(f"{header.path.name}: IP-Adapter and IP-Adapter Plus are read, FaceID is not")
    for key, name in (("image_proj.proj_in.weight", "hidden_size"), ("image_proj.proj.weight", "projection_dim")):
        if len(shapes.get(key, ())) == 2:
            return name, shapes[key][1]
    raise BadCheckpoint(f"{header.path.name} has no image_proj.proj.weight or image_proj.proj_in.weight: no IP-Adapter")
