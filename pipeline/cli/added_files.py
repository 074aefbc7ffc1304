"""Files that the local stack is given when it starts, for rows and prompts to name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from pipeline.checkpoints.header import read_header
from pipeline.checkpoints.ip_adapter import encoder_of
from pipeline.errors import RequestError

Listed = list[str] | None

Loras = Annotated[
    Listed,
    typer.Option(
        "--lora", metavar="NAME=FILE", help="A LoRA for the demo model, which rows may name; may be repeated."
    ),
]
Embeddings = Annotated[
    Listed,
    typer.Option("--embedding", metavar="NAME=FILE", help="An embedding, which prompts may name; may be repeated."),
]
ControlNets = Annotated[
    Listed,
    typer.Option("--controlnet", metavar="NAME=FILE", help="A ControlNet, which rows may name; may be repeated."),
]
IPAdapters = Annotated[
    Listed,
    typer.Option(
        "--ip-adapter",
        metavar="NAME=FILE[,encoder=FOLDER]",
        help="An IP-Adapter, which rows may name, and its image encoder: by default the folder image_encoder beside "
        "it; may be repeated.",
    ),
]

_ENCODER = ",encoder="
_FORM = "NAME=FILE wanted, and the file must be there"


class StackOptions(TypedDict):
    """Of `start_stack`, each a JSON text."""

    loras: str
    embeddings: str
    controlnets: str
    ip_adapters: str


def stack_options(lora: Listed, embedding: Listed, controlnet: Listed, ip_adapter: Listed) -> StackOptions:
    """What the files' options say. Raises RequestError, BadCheckpoint."""
    return {
        "loras": json.dumps(_files(lora or (), "--lora")),
        "embeddings": json.dumps(_files(embedding or (), "--embedding")),
        "controlnets": json.dumps(_files(controlnet or (), "--controlnet")),
        "ip_adapters": json.dumps({name: files for name, *files in map(_adapter, ip_adapter or ())}),
    }


def _files(listed: Sequence[str], option: str) -> dict[str, str]:
    """File by name."""
    files = {}
    for text in listed:
        name, _, path = text.partition("=")
        if not name or not Path(path).is_file():
            raise RequestError(f"{option} {text[:200]!r}: {_FORM}")
        read_header(Path(path))  # a web page or half a download is refused before anything starts
        files[name] = str(Path(path).absolute())
    return files


def _adapter(text: str) -> tuple[str, str, str]:
    """Name, file and image encoder's folder of an IP-Adapter."""
    listed, said, folder = text.partition(_ENCODER)
    [(name, path)] = _files([listed], "--ip-adapter").items()
    encoder = encoder_of(Path(path), Path(folder).expanduser().absolute() if said else None)
    return name, path, str(encoder)
