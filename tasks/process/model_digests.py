"""Which model a pod would load, as one digest of all that decides it, as far as this machine sees it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.deployment.settings import ModelSource

# A worker of many short jobs would look through a model's folder for each of them.
FRESH_S = 2.0


@dataclass
class ModelDigests:
    """The digests of the models that this worker's jobs want; files are looked at once in FRESH_S."""

    fresh_s: float = FRESH_S
    _known: dict[Hashable, tuple[str, float]] = field(default_factory=dict)

    def of(self, model: str, source: ModelSource | None, how: tuple[str | int | bool, ...]) -> str:
        """Of a model of the settings, of its files where this machine has them, and of how a pod loads it."""
        now = time.monotonic()
        digest, looked_at = self._known.get((model, how), ("", float("-inf")))
        if now - looked_at < self.fresh_s:
            return digest
        files = sorted(_files(source)) if source is not None else []
        what = [model, source.model_dump(mode="json") if source is not None else None, how, files]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
        self._known[model, how] = digest, now
        return digest


def _files(source: ModelSource) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of a model's files: corrected, it is to be tried again."""
    parts = [source.path, source.vae, source.text_encoders, source.config]
    parts += [source.refiner.path, source.refiner.config] if source.refiner is not None else []
    for part in parts:
        if part is None:
            continue
        below = (Path(folder, name) for folder, _, names in os.walk(part) for name in names)
        for file in below if Path(part).is_dir() else (Path(part),):
            try:
                stat = file.stat()
            except OSError:
                continue  # nothing is there, or what was there has just gone
            yield str(file), stat.st_size, stat.st_mtime_ns
