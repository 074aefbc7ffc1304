"""Where a model's tokenizers come from: its folder, or CLIP's vocabulary for single files, which have none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.checkpoints.clip import END, vocabulary
from pipeline.checkpoints.folders import read_json
from pipeline.checkpoints.matching import TEXT_ENCODER, TEXT_ENCODER_2, Network
from pipeline.errors import BadCheckpoint

_OF_ENCODER = {TEXT_ENCODER: "tokenizer", TEXT_ENCODER_2: "tokenizer_2"}
# A pad token for each, as SDXL's pipelines have them; the engine gives them the encoders' 77 tokens.
PADS = {"tokenizer": END, "tokenizer_2": "!"}


def find_tokenizers(folder: Path | None, networks: Mapping[str, Network], name: str) -> dict[str, Path | None]:
    """The folder of each text encoder's tokenizer, or None for CLIP's own. Raises BadCheckpoint: files are missing."""
    found: dict[str, Path | None] = {}
    for part, tokenizer in _OF_ENCODER.items():
        if part not in networks:
            continue
        words = int(networks[part].config["vocab_size"])
        if folder is None:
            if words != len(vocabulary()):
                raise BadCheckpoint(f"{name}: its {part} knows {words} tokens, and CLIP has {len(vocabulary())}")
            found[tokenizer] = None
        else:
            found[tokenizer] = _checked(folder / tokenizer)
    return found


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise BadCheckpoint(f"{folder.name} in {folder.parent.name} is not there")
    if (folder / "tokenizer.json").is_file():
        read_json(folder / "tokenizer.json")
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        read_json(folder / "vocab.json")
    else:
        raise BadCheckpoint(
            f"{folder.name} in {folder.parent.name} has neither tokenizer.json nor vocab.json and merges.txt"
        )
    return folder
