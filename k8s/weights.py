"""Copy model weights from the bucket to a volume near the GPUs, once a node; an init container runs it.

`python -P -m k8s.weights --source models/sdxl/ --target /models`. The source holds files and a SHA256SUMS that lists
them. Only files that are not there as listed are copied (`inventory.py`). With `--check`, which the chart's Job asks
for, every file is read and compared, and the models are opened: a wrong one is known before a pod starts.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import structlog

from k8s.inventory import RESERVED, BadWeights, Inventory, locked
from pipeline.bucket.artifacts import Artifacts
from pipeline.checkpoints.control_files import ControlFile, control_file_of
from pipeline.checkpoints.hashes import hashes_of
from pipeline.deployment.model_check import check_model
from pipeline.deployment.settings import ModelSource, Settings, load_settings
from pipeline.errors import BadCheckpoint, StoreUnavailable, TesseraError
from pipeline.loras.report import base_of_file
from pipeline.process.files import whole_file
from pipeline.process.logs import configure_logging
from pipeline.records.listed_files import LISTED_FILES, ListedFiles
from pipeline.records.object_keys import checked_key

SUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")

log = structlog.get_logger("k8s.weights")


def fetch(artifacts: Artifacts, source: str, target: Path, *, read: bool = False) -> int:
    """Copy to `target` the listed files that are not there; returns how many were copied.

    Args:
        artifacts: of the deployment.
        source: folder with the files and their list.
        target: folder to copy them to.
        read: compare every file that is there with its checksum, also one that looks as when that was done before.

    Raises StoreUnavailable or BadWeights.
    """
    source = source.rstrip("/") + "/"
    sums = artifacts.get(source + SUMS)
    if sums is None:
        raise StoreUnavailable(f"{source}{SUMS} is not in {artifacts.where}")
    wanted, copied = _parse_sums(sums.decode(errors="surrogateescape")), 0
    with locked(target):
        there = Inventory(target, source)
        for path, digest in wanted.items():
            if not there.has(path, digest, read=read):
                _copy(artifacts, source + path, target / path, digest)
                copied += 1
            there.note(path, digest)
        there.save()
    return copied


def check_models(models: Mapping[str, ModelSource], target: Path) -> int:
    """Open every model of the allow-list that lies below `target`, as a pod would; returns how many there are.

    Raises BadWeights with the reasons of all that cannot be rendered with, or are not the file that their setting pins.
    """
    problems, checked = [], 0
    for name, source in models.items():
        if not Path(source.path).is_relative_to(target):
            continue
        checked += 1
        try:
            found = check_model(source, whole=True)
        except BadCheckpoint as error:
            problems.append(f"model {name!r}: {error}")
            continue
        log.info("model checked", model=name, found=found.lines())
    if problems:
        raise BadWeights("; ".join(problems))
    return checked


def note_bases(artifacts: Artifacts, settings: Settings, target: Path) -> None:
    """Leave in the bucket for which base models the listed files below `target` are: LoRAs, embeddings and so on.

    And what control networks are. Who checks rows cannot see these files. One that is not what its setting
    pins is passed over: its picture fails with the reason. Raises StoreUnavailable.
    """
    bases: dict[str, str] = {}
    controls: dict[str, ControlFile] = {}
    lists = settings.loras, settings.embeddings, settings.controlnets, settings.ip_adapters
    listed = [item for one in lists for item in one.items()]
    for name, source in listed:
        path = Path(source.path)
        if not path.is_relative_to(target):
            continue
        try:
            base, control = base_of_file(path), control_file_of(path)
            found = hashes_of(path).sha256
        except (BadCheckpoint, OSError) as error:
            log.warning("a listed file cannot be used", name=name, reason=str(error))
            continue
        if found != source.sha256:
            log.warning("a listed file is not the one that is pinned", name=name, found=found, wanted=source.sha256)
        else:
            bases |= {} if base is None else {found: base}
            controls |= {} if control is None else {found: control}
    if listed:
        body = ListedFiles(bases=bases, control_files=controls).model_dump_json().encode()
        artifacts.put(LISTED_FILES, body, content_type="application/json")


def _copy(artifacts: Artifacts, key: str, path: Path, wanted: str) -> None:
    with whole_file(path) as file:
        found = artifacts.copy_to(key, file)
        if found is None:
            raise StoreUnavailable(f"{key} is listed and not in {artifacts.where}")
        if found != wanted:
            raise BadWeights(f"{key} has checksum {found}, {SUMS} says {wanted}")
    log.info("file copied", key=key, size_bytes=path.stat().st_size)


def _parse_sums(text: str) -> dict[str, str]:
    """Checksums by path. Raises BadWeights for a line that is none, and for files that would write over each other."""
    files: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        try:
            path = checked_key(str(PurePosixPath(match[2])) if match else "")
        except ValueError as error:
            raise BadWeights(
                f"{SUMS}: {line[:200]!r} found; a checksum, two spaces and a relative path wanted"
            ) from error
        if match and files.setdefault(path, match[1]) != match[1]:
            raise BadWeights(f"{SUMS}: two checksums of {path!r} found, one wanted")
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents}
    taken = {*RESERVED, *folders, *(f"{path}.part" for path in files)}  # what is written meanwhile
    if both := sorted(taken.intersection(files)):
        raise BadWeights(f"{SUMS}: {both[0]!r} is a folder of another file, or written while files are copied")
    return files


def main(arguments: list[str] | None = None) -> int:
    """Copy the weights of one deployment; exits 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -P -m k8s.weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source", required=True, help="folder in the bucket with the weights, relative to the deployment's prefix"
    )
    parser.add_argument("--target", required=True, type=Path, help="folder to copy them to")
    parser.add_argument("--check", action="store_true", help="read all files, and open every model of TESSERA_MODELS")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.log_level)
        copied = fetch(Artifacts(settings), options.source, options.target, read=options.check)
        if options.check:
            check_models(settings.models, options.target)
            note_bases(Artifacts(settings), settings, options.target)
    except (TesseraError, OSError) as error:  # a full or read-only volume, too
        print(f"weights: {error}", file=sys.stderr)  # noqa: T201 - becomes the termination message
        return 1
    log.info("weights are in place", copied=copied, target=str(options.target))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
