"""Large holes in the renderer's pictures: what stays, what it takes, and whether the edge shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from distri import demo_model
from distri.engine import Engine, EngineSettings
from distri.ranks.mesh import Mesh
from training import holes
from training.adherence import held_out
from training.holes import Filled
from training.paint import painted

SIDE = 64


def test_holes_are_filled_at_once_and_in_rounds(tmp_path: Path) -> None:
    settings = EngineSettings(exact=True, native_px=SIDE)
    engine = Engine.load(demo_model.write(tmp_path / "model"), Mesh.single(), dtype=torch.float32, settings=settings)
    at_once, in_rounds, again = (
        holes.fill(engine, SIDE, 1, rounds=rounds, steps=4, guidance_scale=2.0, first=3) for rounds in (1, 2, 2)
    )
    assert [one[0].evaluations for one in (at_once, in_rounds)] == [4, 4 + 16]
    original = painted(held_out(4)[3], SIDE, SIDE)
    for one in (*at_once, *in_rounds):
        stays = one.hole == 0
        assert np.array_equal(one.picture[stays], original[stays])
        assert not np.array_equal(one.picture[~stays], original[~stays])
    assert not np.array_equal(at_once[0].picture, in_rounds[0].picture)
    assert np.array_equal(in_rounds[0].picture, again[0].picture)


def test_five_holes_of_half_and_more() -> None:
    shares = [float((hole > 0).mean()) for hole in holes.holes(256)]
    assert shares[:4] == [0.5] * 4
    assert abs(shares[4] - 0.6) < 0.01


def test_an_edge_that_shows_is_a_larger_step_than_those_beside_it() -> None:
    hole = holes.holes(SIDE)[0]
    smooth = np.broadcast_to(np.arange(SIDE, dtype=np.uint8)[None, :, None], (SIDE, SIDE, 3))
    torn = smooth + (hole[..., None] > 0) * np.uint8(50)
    assert holes.seam(Filled(smooth, hole, 1)) == 1
    assert holes.seam(Filled(torn, hole, 1)) == 51
