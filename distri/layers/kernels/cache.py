"""Where compiled kernels are kept: a folder to write to, and behind it those that came with the image.

A kernel takes a third of a second to compile, and each rank needs about sixteen. An image has them compiled
(`distri.layers.kernels.compile`); what it lacks goes to TRITON_CACHE_DIR, or wherever Triton keeps such things.
"""

import os
import sys
import tempfile
from pathlib import Path

from triton import knobs
from triton.runtime.cache import FileCacheManager

COMPILED = Path(sys.prefix) / "kernels"  # its files name each other by their whole paths, so it cannot be moved


class ImageCache(FileCacheManager):
    """Triton's cache of one kernel, which reads from the image what is not in the writable folder."""

    def get_file(self, filename: str) -> str | None:
        """The path of a file of this kernel, if there is one."""
        return super().get_file(filename) or self._of_image().get_file(filename)

    def get_group(self, filename: str) -> dict[str, str] | None:
        """The files that belong to one compilation, by name."""
        return super().get_group(filename) or FileCacheManager.get_group(self._of_image(), filename)

    def _of_image(self) -> FileCacheManager:
        manager = FileCacheManager.__new__(FileCacheManager)
        manager.key, manager.lock_path, manager.cache_dir = self.key, None, str(COMPILED / self.key)
        return manager


def use_cache() -> None:
    """Let Triton keep and find kernels; where its folder cannot be written to, in a temporary one."""
    folder = Path(knobs.cache.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        knobs.cache.dir = str(Path(tempfile.gettempdir()) / f"tessera-kernels-{os.getuid()}")
    knobs.cache.manager_class = ImageCache


def any_compiled() -> bool:
    """Whether the image came with kernels, or the writable folder has some."""
    return any(any(folder.glob("*/*.cubin")) for folder in (COMPILED, Path(knobs.cache.dir)))
