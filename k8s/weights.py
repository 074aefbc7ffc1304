"""Keep model weights near the GPUs: an init container copies them from the bucket once a node, checked, under a lock.

`python -P -m k8s.weights --source models/sdxl/ --target /models`. The source holds files and a SHA256SUMS that lists
them; its checksum names the copy that is complete.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import load_settings
from pipeline.errors import StoreUnavailable, TesseraError
from pipeline.process import flock
from pipeline.process.files import whole_file, write_whole
from pipeline.process.logs import configure_logging

SUMS, COMPLETE = "SHA256SUMS", ".complete"
LOCK_WAIT_S = 3600.0  # a neighbour on this node may be copying the same weights

_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")

log = structlog.get_logger("k8s.weights")


class BadWeights(TesseraError):
    """What was copied is not what the list says, or the list cannot be used."""


def fetch(artifacts: Artifacts, source: str, target: Path) -> int:
    """Have `target` hold exactly the listed files; returns how many were copied, 0 if they were all there.

    Raises StoreUnavailable or BadWeights; nothing half-copied is ever marked as complete.
    """
    source = source.rstrip("/") + "/"
    sums = artifacts.get(source + SUMS)
    if sums is None:
        raise StoreUnavailable(f"{source}{SUMS} is not in {artifacts.where}")
    wanted = _parse_sums(sums.decode())

    def copy() -> None:
        for path, digest in wanted.items():
            _copy(artifacts, source + path, target / path, digest)

    return len(wanted) if fill_once(target, hashlib.sha256(sums).hexdigest(), copy) else 0


def fill_once(target: Path, name: str, fill: Callable[[], None]) -> bool:
    """Have `target` be what `name` stands for: False if its mark says so already, else after `fill`.

    Under the folder's lock, for neighbours may be filling it too. Raises what `fill` raises, then leaving no mark, or
    BadWeights if the lock is not to be had.
    """
    target.mkdir(parents=True, exist_ok=True)
    lock = flock.acquire(target / ".lock", LOCK_WAIT_S)
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


def _copy(artifacts: Artifacts, key: str, path: Path, wanted: str) -> None:
    with whole_file(path) as file:
        found = artifacts.copy_to(key, file)
        if found is None:
            raise StoreUnavailable(f"{key} is listed and not in {artifacts.where}")
        if found != wanted:
            raise BadWeights(f"{key} has checksum {found}, {SUMS} says {wanted}")
    log.info("file copied", key=key, size_bytes=path.stat().st_size)


def _parse_sums(text: str) -> dict[str, str]:
    files = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        path = PurePosixPath(match[2]) if match else PurePosixPath("/")
        if match is None or path.is_absolute() or ".." in path.parts:
            raise BadWeights(f"{SUMS}: {line[:200]!r} found; a checksum, two spaces and a relative path wanted")
        files[str(path)] = match[1]
    return files


def main(arguments: list[str] | None = None) -> int:
    """Copy the weights of one deployment; exits 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -P -m k8s.weights", description=__doc__)
    parser.add_argument("--source", required=True, help="folder in the bucket, relative to the deployment's prefix")
    parser.add_argument("--target", required=True, type=Path)
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        configure_logging(settings.log_format, settings.log_level)
        copied = fetch(Artifacts(settings), options.source, options.target)
    except TesseraError as error:
        print(f"weights: {error}", file=sys.stderr)  # noqa: T201 - becomes the termination message
        return 1
    log.info("weights are in place", copied=copied, target=str(options.target))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
