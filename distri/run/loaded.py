"""The engine that this process has loaded, kept for its next job."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable

import torch

from distri.engine import Engine


class LoadedEngine:
    """At most one engine. A job that wants another one has this one's memory freed first."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._key: Hashable = None
        self.model: str | None = None

    @property
    def is_fused(self) -> bool:
        """Whether there is one, and it uses fused kernels."""
        return self._engine is not None and self._engine.settings.fused

    def engine(self, model: str, key: Hashable, load: Callable[[], Engine]) -> Engine:
        """The engine of this key, loaded if it is not the one that is there; `model` is its name.

        Raises what `load` raises; there is none then.
        """
        if self._engine is None or self._key != key:
            self.free()
            self._engine = load()
            self._key, self.model = key, model
        return self._engine

    def free(self) -> None:
        """Free its memory. Nobody may use it any more."""
        if self._engine is None:
            return
        self._engine = self._key = self.model = None
        gc.collect()  # split layers and their networks point at each other
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
