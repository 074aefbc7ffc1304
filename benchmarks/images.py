"""How large the layers of the Dockerfile's two images are, without Docker: `python -m benchmarks.images`.

pip is asked which wheels the pins give for the images' Python. Their sizes are those that the index serves; unpacked,
those of each wheel's table of contents. Bytecode, which the build compiles beside the sources, is taken to be as large
as they are.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = "3.12"  # of Ubuntu 24.04
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + ["manylinux2014_x86_64", "linux_x86_64"]
_PINS = ("constraints.txt", "constraints-images.txt")
_READ_BYTES = 2**20
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Wheel:
    """One wheel of an image."""

    name: str
    download_bytes: int
    unpacked_bytes: int
    python_bytes: int

    @property
    def installed_bytes(self) -> int:
        return self.unpacked_bytes + self.python_bytes


class _Remote(io.RawIOBase):
    """A file behind a URL of the package index, read in ranges: a table of contents costs no download of gigabytes."""

    # The URLs are https ones of the index that pip is set up with (S310); `buffer` is what `io` hands over here.

    def __init__(self, url: str) -> None:
        self._url, self._at = url, 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_S) as answer:  # noqa: S310
            self.size = int(answer.headers["Content-Length"])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._at + len(buffer), self.size)
        if end <= self._at:
            return 0
        request = urllib.request.Request(self._url, headers={"Range": f"bytes={self._at}-{end - 1}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            found: bytes = answer.read()
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def wheels(extras: Sequence[str]) -> list[Wheel]:
    """What an image with these extras installs. Raises CalledProcessError with pip's words on stderr."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-", "--target", target]
        command += ["--only-binary", ":all:", "--python-version", PYTHON]
        command += [word for platform in _PLATFORMS for word in ("--platform", platform)]
        command += [word for file in _PINS for word in ("--constraint", str(ROOT / file))]
        report = json.loads(subprocess.run([*command, *wanted], stdout=subprocess.PIPE, check=True).stdout)
    found = [(one["metadata"]["name"], one["download_info"]["url"]) for one in report["install"]]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda one: measured(*one), found))


def measured(name: str, url: str) -> Wheel:
    """The sizes of the wheel at this address."""
    remote = _Remote(url)
    with zipfile.ZipFile(io.BufferedReader(remote, _READ_BYTES)) as archive:
        files = archive.infolist()
    python = sum(file.file_size for file in files if file.filename.endswith(".py"))
    return Wheel(name, remote.size, sum(file.file_size for file in files), python)


def main() -> None:
    """Print a line for each image, and its largest wheels."""
    for image, extras in (("worker", ("worker", "tables", "serve")), ("engine", ("engine",))):
        found = sorted(wheels(extras), key=lambda wheel: -wheel.installed_bytes)
        downloads, unpacked, installed = (
            sum(sizes) / 1e6
            for sizes in zip(*((w.download_bytes, w.unpacked_bytes, w.installed_bytes) for w in found), strict=True)
        )
        print(
            f"{image}: {len(found)} wheels, {downloads:.0f} MB; unpacked {unpacked:.0f} MB, "
            f"installed {installed:.0f} MB"
        )
        for wheel in found[:12]:
            print(
                f"  {wheel.name}: {wheel.download_bytes / 1e6:.0f} MB, installed {wheel.installed_bytes / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    main()
