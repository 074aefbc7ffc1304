"""A VAE that overflows in half precision is computed again in float32; what stays not finite is said to be so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from distri import demo_model
from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Rendered
from distri.model.passes.stages import Highres
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from tests.distri import on_ranks
from tests.distri.pool import Ranks

EXACT = EngineSettings(exact=True, native_px=96)
PLAIN = ImageSpec("a cat", None, seed=7, width=96, height=128, steps=2, guidance_scale=5.0)
REFINED = replace(PLAIN, width=160, height=136, highres=Highres(refine=True, strength=0.5))
DECODED, ENCODED = (f"{what} again in float32: not finite in float16" for what in ("decoded", "encoded"))


def _written(folder: Path, change: Callable[[Any], None]) -> Path:
    """The demo model with another VAE."""
    demo_model.write(folder)
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        change(vae)
    vae.half().save_pretrained(folder / "vae")
    return folder


def _overflowing(vae: Any) -> None:
    vae.decoder.conv_in.weight.mul_(2e4)
    vae.encoder.conv_in.weight.mul_(5e4)


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(tmp_path_factory.mktemp("overflowing"), _overflowing)


def _render(model_dir: Path, layout: str) -> tuple[list[Rendered], bool]:
    """Both images, and whether the VAE is as it was afterwards."""
    mesh = on_ranks.mesh(layout)
    engine = Engine.load(model_dir, mesh, dtype=torch.float32, settings=EXACT, vae_dtype=torch.float16)
    vae = engine._parts.preparation._model.vae
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    renders = [engine.render(image, control=lambda: Control.GO) for image in (PLAIN, REFINED)]
    same = all(
        tensor.dtype is torch.float16 and torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items()
    )
    return renders, same


@pytest.mark.parametrize(("count", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3")])
def test_what_overflows_is_done_again_in_float32_on_all_ranks(
    ranks: Callable[[int], Ranks], overflowing: Path, count: int, layout: str
) -> None:
    single = Engine.load(overflowing, Mesh.single(), dtype=torch.float32, settings=EXACT)
    wanted = [single.render(image, control=lambda: Control.GO) for image in (PLAIN, REFINED)]
    assert [one.repairs for one in wanted] == [(), ()]
    for renders, same in ranks(count).run(_render, overflowing, layout):
        assert same
        assert renders[0].repairs == (DECODED,)
        assert renders[1].repairs[:2] == (DECODED, ENCODED)
        assert [(one.finite, one.blank) for one in renders] == [(one.finite, one.blank) for one in wanted]
        assert (renders[0].finite, renders[0].blank) == (True, False)
        for found, plain in zip(renders, wanted, strict=True):
            if found.pixels is not None and plain.pixels is not None:
                assert np.abs(found.pixels.astype(int) - plain.pixels.astype(int)).max() <= 1


def test_a_half_precision_vae_that_does_not_overflow_is_not_repaired(model_dir: Path) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT, vae_dtype=torch.float16)
    assert engine.render(PLAIN, control=lambda: Control.GO).repairs == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_float32_does_not_mend_either_is_not_finite(
    ranks: Callable[[int], Ranks], tmp_path: Path, value: float
) -> None:
    def spoil(vae: Any) -> None:
        vae.decoder.conv_out.bias.fill_(value)

    for renders, _ in ranks(2).run(_render, _written(tmp_path, spoil), "1x1x2"):
        assert [one.finite for one in renders] == [False, False]
        assert renders[0].repairs == (DECODED,)


def test_a_picture_of_one_colour_is_blank(tmp_path: Path) -> None:
    def empty(vae: Any) -> None:
        vae.decoder.conv_out.weight.zero_()
        vae.decoder.conv_out.bias.fill_(-1.0)

    model_dir = _written(tmp_path, empty)
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EXACT)
    black = engine.render(PLAIN, control=lambda: Control.GO)
    assert (black.finite, black.blank) == (True, True)
