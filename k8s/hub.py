"""Download a model of the Hugging Face hub to a volume, once.

`python -P -m k8s.hub --repository stabilityai/stable-diffusion-xl-base-1.0 --revision COMMIT --target /models/sdxl`.
Downloads only the parts that the pipeline's model_index.json names, as safetensors in full precision, at a pinned
revision. HF_TOKEN gives access to gated repositories. Render pods never run it: they mount the volume read-only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path, PurePosixPath

import structlog

from k8s.inventory import BadWeights, Inventory, locked
from k8s.weights import check_models
from pipeline.deployment.settings import load_settings
from pipeline.errors import ServiceError, TesseraError
from pipeline.process.logs import configure_logging

INDEX = "model_index.json"
KINDS = frozenset({".json", ".txt", ".safetensors"})

log = structlog.get_logger("k8s.hub")


def fetch(repository: str, revision: str, target: Path) -> bool:
    """Download the pipeline at this revision to `target`; False if it was there already.

    Raises ServiceError if the hub does not deliver it, BadWeights if it is no pipeline or does not match the hub's
    list. Files that are there with their checksums are not downloaded again; if all are, the hub is not asked.
    """
    name = f"{repository}@{revision}"
    with locked(target):
        there = Inventory(target, name)
        if there.is_whole():
            return False
        try:
            _load(repository, revision, target, there)
        except (OSError, ValueError) as error:  # what the hub's client raises is one of these
            raise ServiceError(f"the hub does not give {name}: {type(error).__name__}: {error}") from error
        there.save()
    return True


def _load(repository: str, revision: str, target: Path, there: Inventory) -> None:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.hf_api import RepoFile

    index = hf_hub_download(repository, INDEX, revision=revision, local_dir=target)
    parts = _parts(Path(index))
    wanted = [
        entry
        for entry in HfApi().list_repo_tree(repository, recursive=True, revision=revision)
        if isinstance(entry, RepoFile) and _belongs(PurePosixPath(entry.path), parts)
    ]
    if missing := parts - {PurePosixPath(entry.path).parts[0] for entry in wanted}:
        raise BadWeights(f"{repository}@{revision} has no files of {', '.join(sorted(missing))}, which {INDEX} names")
    for entry in wanted:
        path = Path(hf_hub_download(repository, entry.path, revision=revision, local_dir=target))
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if size != entry.size or (entry.lfs is not None and digest != entry.lfs.sha256):
            path.unlink()
            raise BadWeights(f"{entry.path} is not what the hub lists ({size} bytes found, {entry.size} wanted)")
        there.note(entry.path, digest)
        log.info("file downloaded", path=entry.path, size_bytes=size)


def _belongs(path: PurePosixPath, parts: set[str]) -> bool:
    """Whether the engine reads this file: one of a part, but not a half-precision copy, which it makes by itself."""
    own = len(path.parts) == 2 and path.parts[0] in parts and path.suffix in KINDS
    return own and not path.name.endswith(".fp16.safetensors")


def _parts(index: Path) -> set[str]:
    """Folders of a pipeline: the entries of its index that have a library and a class."""
    try:
        entries = json.loads(index.read_text())
        parts = {name for name, kind in entries.items() if isinstance(kind, list) and len(kind) == 2 and all(kind)}
    except (ValueError, AttributeError) as error:
        raise BadWeights(f"{INDEX} cannot be read: {error}") from error
    if not parts:
        raise BadWeights(f"{INDEX} names no parts; a diffusers pipeline wanted")
    return parts


def main(arguments: list[str] | None = None) -> int:
    """Download one model; exits 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -P -m k8s.hub", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", required=True, help="such as stabilityai/stable-diffusion-xl-base-1.0")
    parser.add_argument("--revision", required=True, help="commit of the repository to download")
    parser.add_argument("--target", required=True, type=Path, help="folder to download it to")
    parser.add_argument("--check", action="store_true", help="also open every model of TESSERA_MODELS that lies there")
    options = parser.parse_args(arguments)
    configure_logging("auto", "info")
    try:
        loaded = fetch(options.repository, options.revision, options.target)
        if options.check:
            check_models(load_settings().models, options.target)
    except TesseraError as error:
        print(f"hub: {error}", file=sys.stderr)  # noqa: T201 - becomes the termination message
        return 1
    log.info("weights are in place", loaded=loaded, target=str(options.target))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
