"""What `make` installs, said before it is fetched: `python install.py PIP-ARGUMENTS...`, by the environment's Python.

Standard library only, since nothing is installed yet. pip is asked what it would fetch, and how large that is; then it
fetches. Ctrl-C ends it with a word, and the next `make` goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
INTERRUPTED = 130
_LARGE_BYTES = 1_500_000_000
_HEAD_S = 10.0
CUDA_ADVICE = (
    "  torch comes with CUDA here, which a machine without a GPU does not need. PyTorch's page of versions names an\n"
    "  index of CPU builds, about 0.2 GB: Ctrl-C, set PIP_EXTRA_INDEX_URL to it, and run make again."
)


def planned(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Name and address of each file that pip would fetch; nothing if it does not say."""
    asked = [*PIP, "install", "--dry-run", "--report", "-", *arguments]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return []
    return [(one["metadata"]["name"], one["download_info"]["url"]) for one in report.get("install", [])]


def size_of(address: str) -> int | None:
    """Bytes of a file, as its server or the disk says; None if neither does."""
    parts = urlsplit(address)
    try:
        if parts.scheme == "file":
            path = Path(unquote(parts.path))
            return path.stat().st_size if path.is_file() else 0
        if parts.scheme not in ("http", "https"):
            return None
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - checked above
        with urllib.request.urlopen(request, timeout=_HEAD_S) as answer:  # noqa: S310
            return int(answer.headers.get("Content-Length", ""))
    except (OSError, ValueError):
        return None


def summary(files: Sequence[tuple[str, str]], sizes: Sequence[int | None]) -> str:
    """What will be fetched, in one line, and what to do if that is CUDA."""
    known = sum(size or 0 for size in sizes)
    unknown = sum(size is None for size in sizes)
    largest = sorted(((size or 0, name) for (name, _), size in zip(files, sizes, strict=True)), reverse=True)[:3]
    names = ", ".join(f"{name} {megabytes(size)}" for size, name in largest if size)
    beside = f", and {unknown} of unknown size" if unknown else ""
    text = f"  {len(files)} packages, {megabytes(known)}{beside}" + (f": {names}, ..." if names else "")
    cuda = any(name.startswith("nvidia-") for name, _ in files)
    return text + (f"\n{CUDA_ADVICE}" if cuda and known + unknown * _LARGE_BYTES > _LARGE_BYTES else "")


def megabytes(size: int) -> str:
    """A size as people read it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def main(arguments: Sequence[str]) -> int:
    """Say what pip fetches, and have it fetch."""
    began = time.monotonic()
    try:
        print(f"installing {arguments[-1]}: asking pip what that takes", flush=True)
        if files := planned(arguments):
            pool = ThreadPoolExecutor(16)
            sizes = list(pool.map(size_of, [address for _, address in files]))
            print(summary(files, sizes), flush=True)
            print("  fetching and installing them; this takes minutes where nothing is cached", flush=True)
        code = subprocess.call([*PIP, "install", *arguments])
    except KeyboardInterrupt:
        print("\ninterrupted; run make again, and it goes on", flush=True)
        os._exit(INTERRUPTED)  # a server that does not answer is not waited for
    if code == 0:
        print(f"  installed ({time.monotonic() - began:.0f} s)", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
