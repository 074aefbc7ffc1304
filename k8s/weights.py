"""Copy model weights from the bucket to a volume near the GPUs, once a node; an init container runs it.

`python -P -m k8s.weights --source models/sdxl/ --target /models`. The source holds files and a SHA256SUMS that lists
them. Every file is checked against it; a mark with the checksum of the list says that the copy is complete. With
`--check`, which the chart's Job asks for, the models themselves are opened: a wrong one is known before a pod starts.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.model_check import check_model
from pipeline.deployment.settings import ModelSource, load_settings
from pipeline.errors import BadCheckpoint, StoreUnavailable, TesseraError
from pipeline.process import flock
from pipeline.process.files import whole_file, write_whole
from pipeline.process.logs import configure_logging
from pipeline.records.object_keys import checked_key

SUMS, COMPLETE, LOCK = "SHA256SUMS", ".complete", ".lock"
LOCK_WAIT_S = 3600.0  # another pod on this node may be copying the same weights

_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")

log = structlog.get_logger("k8s.weights")


class BadWeights(TesseraError):
    """The files do not match the list of checksums, or the list cannot be used."""


def fetch(artifacts: Artifacts, source: str, target: Path) -> int:
    """Copy the listed files to `target`; returns how many were copied, 0 if all were there already.

    Raises StoreUnavailable or BadWeights; an incomplete copy is never marked as complete.
    """
    source = source.rstrip("/") + "/"
    sums = artifacts.get(source + SUMS)
    if sums is None:
        raise StoreUnavailable(f"{source}{SUMS} is not in {artifacts.where}")
    wanted = _parse_sums(sums.decode(errors="surrogateescape"))

    def copy() -> None:
        for path, digest in wanted.items():
            _copy(artifacts, source + path, target / path, digest)

    return len(wanted) if fill_once(target, hashlib.sha256(sums).hexdigest(), copy) else 0


def fill_once(target: Path, name: str, fill: Callable[[], None]) -> bool:
    """Call `fill` and mark `target` as holding `name`; False if the mark says so already.

    Holds the folder's lock, because other pods may fill it too. Raises what `fill` raises, and then sets no mark, or
    BadWeights if the lock stays taken.
    """
    target.mkdir(parents=True, exist_ok=True)
    lock = flock.acquire(target / LOCK, LOCK_WAIT_S)
    if lock is None:
        raise BadWeights(f"another pod has held the lock of {target} for {LOCK_WAIT_S:.0f} s")
    try:
        complete = target / COMPLETE
        if complete.exists() and complete.read_text() == name:
            return False
        complete.unlink(missing_ok=True)
        fill()
        write_whole(complete, name.encode())
        return True
    finally:
        os.close(lock)


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
    taken = {COMPLETE, LOCK, *folders, *(f"{path}.part" for path in files)}  # what is written meanwhile
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
    parser.add_argument("--check", action="store_true", help="also open every model of TESSERA_MODELS that lies there")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.log_level)
        copied = fetch(Artifacts(settings), options.source, options.target)
        if options.check:
            check_models(settings.models, options.target)
    except (TesseraError, OSError) as error:  # a full or read-only volume, too
        print(f"weights: {error}", file=sys.stderr)  # noqa: T201 - becomes the termination message
        return 1
    log.info("weights are in place", copied=copied, target=str(options.target))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
