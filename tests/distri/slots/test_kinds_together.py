"""Rows of every kind in one queue of slots: begun with pictures, repainted, filled in, grown, refined."""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Inpaint, Rendered, StartPicture
from distri.model.passes.stages import Highres
from distri.model.text.prompts import LongPrompt
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from tests.distri.slots.arrivals import rendered_as_they_arrive

PIXELS = np.random.default_rng(3).integers(0, 255, (64, 64, 3)).astype(np.uint8)
ROWS, COLUMNS = np.mgrid[:64, :64]
MASK = np.where((ROWS > 20) & (COLUMNS < 40), 255, 0).astype(np.uint8)
BEGUN = StartPicture(64, 64, 0.6, pixels=PIXELS)
PLAIN = ImageSpec(
    "a cat", "blurry", seed=7, width=64, height=64, steps=4, guidance_scale=5.0, long_prompt=LongPrompt.CHUNK
)
LARGER = replace(PLAIN, width=128, height=128)
IMAGES = {
    "plain": PLAIN,
    "guided in the middle": replace(PLAIN, seed=1, steps=6, guidance_interval=(0.3, 0.7)),
    "not guided": replace(PLAIN, seed=2, steps=5, guidance_scale=1.0),
    "begun": replace(PLAIN, seed=3, steps=6, picture=BEGUN, scheduler="UniPCMultistepScheduler"),
    "begun, guided at first": replace(PLAIN, seed=31, steps=6, picture=BEGUN, guidance_interval=(0.0, 0.7)),
    "repainted": replace(PLAIN, seed=4, picture=StartPicture(64, 64, 1.0, pixels=PIXELS, inpaint=Inpaint(mask=MASK))),
    "filled in": replace(
        PLAIN,
        seed=5,
        picture=StartPicture(64, 64, 1.0, pixels=PIXELS, inpaint=Inpaint(mask=MASK, rounds=2)),
        guidance_interval=(0.2, 0.9),
    ),
    "grown": replace(LARGER, seed=6, steps=6, highres=Highres(switch_at=0.5), guidance_interval=(0.2, 0.8)),
    "refined": replace(LARGER, seed=8, steps=5, highres=Highres(refine=True, strength=0.5)),
    "long": replace(PLAIN, seed=9, prompt="a long walk " * 60, scheduler="HeunDiscreteScheduler"),
}


def _go() -> Control:
    return Control.GO


@cache
def _engine(model_dir: Path) -> Engine:
    return Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(native_px=64))


@cache
def _alone(model_dir: Path, name: str) -> Rendered:
    return _engine(model_dir).render(IMAGES[name], control=_go)


@pytest.mark.parametrize("seed", range(2))
def test_rows_of_every_kind_share_slots_and_are_what_each_is_alone(model_dir: Path, seed: int) -> None:
    random_ = random.Random(seed)
    names = random_.sample(list(IMAGES), len(IMAGES))
    renders = _engine(model_dir).renders(control=_go, slots=4)
    found = rendered_as_they_arrive(renders, {name: IMAGES[name] for name in names}, random_)
    assert set(found) == set(IMAGES)
    for name, one in found.items():
        alone = _alone(model_dir, name)
        assert one.evaluations == alone.evaluations, name
        assert one.pixels is not None
        assert alone.pixels is not None
        assert np.abs(one.pixels.astype(int) - alone.pixels.astype(int)).max() <= 1, name
    assert sum(one.others > 0 for one in found.values()) > len(IMAGES) // 2
