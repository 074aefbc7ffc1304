"""The fidelity figures: right on pictures made for it, and the whole way with real ranks."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fidelity import measures, page
from benchmarks.fidelity.__main__ import added, measured
from benchmarks.fidelity.variations import AT_ONCE, DEFAULT, VARIATIONS, Variation
from distri import demo_model
from distri.ranks.patches import split
from distri.ranks.phase import Exchanged


def _picture() -> measures.Picture:
    down = np.linspace(0, 200, 256)[:, None, None]
    return np.broadcast_to(down, (256, 256, 3)).astype(np.uint8)


def test_equal_pictures_are_equal_by_every_measure() -> None:
    picture = _picture()
    assert measures.psnr(picture, picture) == math.inf
    assert measures.ssim(picture, picture) == pytest.approx(1.0)
    assert measures.seam(picture, picture, split(32, 32, 8, unit=4)) == pytest.approx(1.0)


def test_psnr_of_a_known_error() -> None:
    picture = np.full((32, 32, 3), 100, np.uint8)
    assert measures.psnr(picture + np.uint8(10), picture) == pytest.approx(10 * math.log10(255**2 / 100))


def test_noise_lowers_ssim() -> None:
    noisy = (_picture() + np.random.default_rng(0).normal(0, 20, (256, 256, 3))).clip(0, 255).astype(np.uint8)
    assert measures.ssim(noisy, _picture()) < 0.6


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_step_at_the_borders_shows_as_a_seam_and_elsewhere_does_not(ranks: int) -> None:
    patches = split(32, 32, ranks, unit=4)
    seamed, moved = _picture().copy(), _picture().copy()
    for number in range(0, ranks, 2):
        seamed[patches.edges[number] * 8 : patches.edges[number + 1] * 8] += 12
        moved[patches.edges[number] * 8 + 11 : patches.edges[number + 1] * 8 + 11] += 12
    assert measures.seam(seamed, _picture(), patches) > 3
    assert measures.seam(moved, _picture(), patches) < 1


def test_only_one_factor_differs_from_the_default_or_from_the_same_on_other_ranks() -> None:
    for variation in VARIATIONS[1:]:
        if variation is AT_ONCE:
            continue
        default = (AT_ONCE if variation.at_once else DEFAULT).described()
        own = variation.described()
        changed = {name for name in default if own[name] != default[name]} - {"factor", "value", "images"}
        if variation.factor == "settling":  # whose first evaluations wait as those of "at once" do
            changed -= {"warmup"}
        if "at 2 ranks" in variation.factor or variation.factor.endswith("own tokens"):
            assert "ranks" in changed
            changed -= {"ranks"}
        if "steps" in variation.factor:  # fewer of them, and what is measured there
            changed -= {"steps"} if len(changed) > 1 else set()
        if variation.factor.startswith("refined") and len(changed) > 1:  # two passes, and another exchange
            changed -= {"side_px"}
        assert len(changed) == 1, variation
        assert Variation.of(own) == variation


@pytest.mark.timeout(1200)
def test_real_ranks_render_compare_and_write_the_page(tmp_path: Path) -> None:
    model = demo_model.write(tmp_path / "model")
    variations = [
        Variation("default", "2 ranks", ranks=2, warmup=1, steps=2, images=1),
        Variation("exact", "2 ranks", ranks=2, exact=True, steps=2, images=1),
        replace(AT_ONCE, ranks=2, warmup=1, steps=2, images=1),
    ]
    measured(model, tmp_path / "work", tmp_path, variations)
    results = json.loads((tmp_path / "benchmarks" / "results" / "fidelity.json").read_text())
    displaced, exact, at_once = results["variations"]
    assert at_once["psnr_db"][0] is not None
    assert exact["psnr_db"][0] is None or exact["psnr_db"][0] > 60
    assert displaced["psnr_db"][0] is not None
    text = (tmp_path / "docs" / "fidelity.md").read_text()
    assert "| exact | 2 ranks | 2 | 1 |" in text.partition("## Displaced at once")[0]
    assert "| at once | 8 ranks | 2 | 1 |" in text.partition("## Displaced at once")[2]
    for name in ("fidelity-factors.png", "fidelity-0.png"):
        assert f"pictures/{name}" in text
        assert (tmp_path / "docs" / "pictures" / name).stat().st_size > 1000
    # One more factor is put beside them; what is rendered already is not rendered again.
    work = next((tmp_path / "work").iterdir())
    more = Variation("residual", "2 ranks", ranks=2, warmup=1, steps=2, images=1, exchange=Exchanged.RESIDUAL)
    (work / f"{more.name}.json").write_text(json.dumps(more.described()))
    shutil.copy(work / f"{variations[0].name}.npz", work / f"{more.name}.npz")
    assert len(added(model, tmp_path / "work", tmp_path, [more])["variations"]) == 4
    assert "\n| residual | 2 ranks | 2 | 1 |" in (tmp_path / "docs" / "fidelity.md").read_text()
    assert len(added(model, tmp_path / "work", tmp_path, [more])["variations"]) == 4
    assert "--add --factors residual" in (tmp_path / "docs" / "fidelity.md").read_text()
    found = {"version": "1", "images": 2, "steps": 3, "warmup": 4, "measured": "today", "command": "c"}
    results["beside"] = {**found, "rows": [{"ranks": 2, "name": "distrifuser", "psnr_db": [38.0, 40.0]}]}
    page.write(tmp_path / "docs" / "fidelity.md", tmp_path / "docs" / "pictures", results, [])
    assert "| 2 | distrifuser | 39.0 | 38.0 |" in (tmp_path / "docs" / "fidelity.md").read_text()
