"""The same code in half precision: fp32 VAE, fp32 latents, near the fp32 image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Rendered
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from tests.distri import on_ranks
from tests.distri.pool import Ranks

IMAGE = ImageSpec("a cat", None, seed=7, width=128, height=136, steps=4, guidance_scale=5.0)


def _render(model_dir: Path, dtype: torch.dtype) -> Rendered:
    engine = Engine.load(model_dir, on_ranks.mesh("1x1x2"), dtype=dtype, settings=EngineSettings(warmup=2))
    return engine.render(IMAGE, control=lambda: Control.GO)


@pytest.mark.parametrize(("dtype", "levels"), [(torch.bfloat16, 3.0), (torch.float16, 1.5)])
def test_half_precision_renders_near_single(
    ranks: Callable[[int], Ranks], model_dir: Path, dtype: torch.dtype, levels: float
) -> None:
    single = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True))
    wanted = single.render(IMAGE, control=lambda: Control.GO).pixels
    found = ranks(2).run(_render, model_dir, dtype)[0]
    assert found.finite
    assert wanted is not None
    assert np.abs(found.pixels.astype(float) - wanted).mean() < levels
