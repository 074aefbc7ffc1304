"""A device that holds only so many elements of latents in an evaluation, for every Python that finds this folder first.

FAULTS_ELEMENTS says how many. More raise what a GPU raises when its memory is full.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

NETWORK = "distri.layers.unet"


class _Limit(importlib.abc.MetaPathFinder):
    """Puts the limit into the network's module as it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != NETWORK:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def limited(module: Any) -> None:
            execute(module)
            _limit(module.SplitUNet)

        loader.exec_module = limited
        return spec


def _limit(network: Any) -> None:
    evaluate, most = network.__call__, int(os.environ["FAULTS_ELEMENTS"])

    def limited(self: Any, latent_BCHW: Any, *args: Any) -> Any:
        import torch

        if latent_BCHW.shape[0] * latent_BCHW.shape[2] * latent_BCHW.shape[3] > most:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {tuple(latent_BCHW.shape)}")
        return evaluate(self, latent_BCHW, *args)

    network.__call__ = limited


if "FAULTS_ELEMENTS" in os.environ:
    sys.meta_path.insert(0, _Limit())
