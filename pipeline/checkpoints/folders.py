"""Folders of diffusers pipelines: their configurations, and which safetensors files hold a part, shards included."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.checkpoints.header import MAX_HEADER_BYTES, Header, read_header
from pipeline.checkpoints.kinds import Kind
from pipeline.errors import BadCheckpoint

INDEX = "model_index.json"
BASE_PIPELINE = "StableDiffusionXLPipeline"
# The refiner's own folder is an image-to-image pipeline without a first text encoder.
REFINER_PIPELINE = "StableDiffusionXLImg2ImgPipeline"
# A model of nine channels that was trained to fill masks; one of four can be saved as this, too.
INPAINTING_PIPELINE = "StableDiffusionXLInpaintPipeline"

# Names of weights without their ending: diffusers' parts, transformers' parts.
_STEMS = ("diffusion_pytorch_model", "model")
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder. Raises BadCheckpoint."""
    name = f"{path.name} in {path.parent.name}"
    try:
        if path.stat().st_size > MAX_HEADER_BYTES:
            raise BadCheckpoint(f"{name} has {path.stat().st_size:,} bytes; a configuration wanted")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadCheckpoint(f"{name} is not there") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{name} cannot be read: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{name}: found no JSON object")
    return content


def kind_of_folder(folder: Path) -> tuple[Kind, dict[str, Any]]:
    """Which model a pipeline's folder holds, and its index. Raises BadCheckpoint: none of SDXL's, or no such folder."""
    if not (folder / INDEX).is_file():
        raise BadCheckpoint(f"{folder.name} {_instead(folder)}; a diffusers pipeline with its {INDEX} wanted")
    index = read_json(folder / INDEX)
    found = index.get("_class_name")
    if found is None:
        raise BadCheckpoint(f"{INDEX} in {folder.name} names no _class_name; {BASE_PIPELINE} wanted")
    if found == REFINER_PIPELINE and not _names_part(index, "text_encoder"):
        return Kind.REFINER, index
    if found not in (BASE_PIPELINE, REFINER_PIPELINE, INPAINTING_PIPELINE):
        raise BadCheckpoint(f"{folder.name}: found a {str(found)[:80]}, wanted a {BASE_PIPELINE}")
    return Kind.BASE, index


def _names_part(index: dict[str, Any], part: str) -> bool:
    entry = index.get(part)
    return isinstance(entry, list) and all(entry)


def _instead(folder: Path) -> str:
    """What a folder without an index holds."""
    names = sorted(path.name for path in folder.iterdir())
    files = [name for name in names if name.endswith(".safetensors")]
    if files:
        return f"has no {INDEX} and holds {', '.join(files[:3])}: name the file itself if it is a checkpoint"
    if any(name.endswith(_PICKLED) for name in names):
        return "holds pickled weights, which can run any code when they are read"
    return f"has no {INDEX} and holds {', '.join(names[:5]) or 'nothing'}"


def part_headers(folder: Path, variant: str | None) -> list[Header]:
    """Headers of the files that hold a part's weights: one, or the shards that an index names.

    Args:
        folder: of the part.
        variant: as in `model.fp16.safetensors`; None is the plain one.

    Raises:
        BadCheckpoint: there are none, they are pickled or of another variant only, or shards are missing.
    """
    suffix = f".{variant}" if variant else ""
    for stem in _STEMS:
        plain = folder / f"{stem}{suffix}.safetensors"
        if plain.is_file():
            return [read_header(plain)]
        for index in (f"{stem}.safetensors.index{suffix}.json", f"{stem}{suffix}.safetensors.index.json"):
            if (folder / index).is_file():
                return _shards(folder / index)
    raise BadCheckpoint(f"{folder.parent.name}/{folder.name} {_no_weights(folder, variant)}")


def variants(folder: Path) -> list[str]:
    """The variants that a part's folder has weights of; "" is the plain one."""
    found = set()
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        for stem in _STEMS:
            inner = path.name.removeprefix(stem).removesuffix(".safetensors").split("-")[0]
            if path.name.startswith(stem) and (not inner or inner[0] == "."):
                found.add(inner.removeprefix("."))
    return sorted(found)


def _shards(index: Path) -> list[Header]:
    wanted = read_json(index).get("weight_map")
    if not isinstance(wanted, dict) or not wanted or not all(isinstance(name, str) for name in wanted.values()):
        raise BadCheckpoint(f"{index.name} in {index.parent.name} holds no weight_map from tensors to files")
    names = sorted(set(wanted.values()))
    for name in names:
        if PurePosixPath(name).name != name:
            raise BadCheckpoint(f"{index.name} in {index.parent.name}: {name[:80]!r} is no file of its folder")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise BadCheckpoint(
            f"{index.parent.name} lacks {len(missing)} of {len(names)} shards ({', '.join(missing[:3])}); download "
            "them as well"
        )
    headers = [read_header(index.parent / name) for name in names]
    there = {key for header in headers for key in header.tensors}
    if lost := sorted(wanted.keys() - there):
        raise BadCheckpoint(
            f"{index.parent.name}: its shards lack {len(lost)} tensors that {index.name} names ({lost[0]})"
        )
    return headers


def _no_weights(folder: Path, variant: str | None) -> str:
    if not folder.is_dir():
        return "is not there"
    if there := variants(folder):
        of = ", ".join(name or "none" for name in there)
        return f"has no weights of variant {variant or 'none'}; of {of} it has: set the model's `variant`"
    if any(path.suffix in _PICKLED for path in folder.iterdir()):
        return "has pickled weights only, which can run any code when they are read; safetensors wanted"
    return "has no safetensors weights"
