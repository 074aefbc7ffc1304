"""The version before this one, as the wheel that its commit builds."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The last commit of 0.1.0. A release moves it on to the last commit of the version before.
COMMIT = "9dabfa40f25d83c677fd8584b47a1763a382ebfc"


def installed(cache: Path, scratch: Path) -> Path:
    """A folder with the older wheel, for PYTHONPATH; what it needs beside it has from this environment.

    Args:
        cache: kept from run to run.
        scratch: for the sources.

    A shallow clone is asked for the rest of its history. Where the commit is not to be had all the same the test is
    skipped, and fails under CI.
    """
    folder = cache / COMMIT
    if folder.is_dir():
        return folder
    archive = _git("archive", COMMIT)
    if archive is None and _git("fetch", "--unshallow") is not None:
        archive = _git("archive", COMMIT)
    if archive is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs commit {COMMIT}: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(archive)) as sources:
        sources.extractall(scratch / "sources", filter="data")
    dist = scratch / "dist"
    _run("build", "--wheel", "--outdir", dist, scratch / "sources")
    (wheel,) = dist.glob("tessera_render-*.whl")
    _run("pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", scratch / "new", wheel)
    (scratch / "new").rename(folder)  # whole or not at all
    return folder


def _git(*arguments: str) -> bytes | None:
    """What git prints; None if it is not there or fails."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "-C", str(ROOT), *arguments], capture_output=True, timeout=120, check=False)
    return done.stdout if done.returncode == 0 else None


def _run(module: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
