"""What tests run on ranks: functions that a spawned process can import."""

from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.ranks.mesh import Layout, Mesh
from distri.sampling.control import Control


@cache
def mesh(layout: str = "") -> Mesh:
    """This rank's place in a layout; all patch ranks by default. Asked for in one order on all ranks."""
    import torch.distributed as dist

    wanted = Layout.parse(layout) if layout else Layout(1, 1, dist.get_world_size())
    return Mesh.join(wanted, device="cpu", timeout=timedelta(seconds=60))


@cache
def engine(model_dir: Path, layout: str, settings: EngineSettings) -> Engine:
    return Engine.load(model_dir, mesh(layout), dtype=torch.float32, settings=settings)


def render(model_dir: Path, layout: str, settings: EngineSettings, images: list[ImageSpec]) -> list[Any]:
    """Render one after the other with one engine."""
    own = engine(model_dir, layout, settings)
    return [own.render(image, control=lambda: Control.GO) for image in images]


def latents(model_dir: Path, layout: str, settings: EngineSettings, images: list[ImageSpec]) -> list[Any]:
    """Final latents and results, one after the other with one engine."""
    own, found = engine(model_dir, layout, settings), list[Any]()
    for image in images:
        final: list[torch.Tensor] = []
        rendered = own.render(image, control=lambda: Control.GO, on_final_latent=final.append)
        found.append((final[0].cpu().clone(), rendered))
    return found
