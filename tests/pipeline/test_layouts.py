"""How a pod's GPUs are used."""

from __future__ import annotations

import pytest

from pipeline.errors import SettingsError
from pipeline.layouts import planned_layout, shortest_long_side_px


@pytest.mark.parametrize(
    ("gpus", "layout"),
    [(1, "1x1x1"), (2, "1x1x2"), (3, "1x1x3"), (4, "1x2x2"), (5, "1x1x5"), (6, "1x2x3"), (7, "1x1x7"), (8, "1x2x4")],
)
def test_the_default_uses_all_gpus_and_splits_cfg_where_patches_get_two(gpus: int, layout: str) -> None:
    assert planned_layout(gpus) == layout


@pytest.mark.parametrize("wanted", ["8x1x1", "1x2x4", "1x1x8", "2x2x2", "4x2x1"])
def test_a_layout_that_uses_all_gpus_is_taken(wanted: str) -> None:
    assert planned_layout(8, wanted) == wanted


@pytest.mark.parametrize(
    "wanted", ["1x2x2", "2x2x4", "1x4x2", "0x2x4", "2x4", "axbxc", "1x2x4x1", "1x2x-4", "", "08x1x1"]
)
def test_any_other_layout_is_refused_by_name(wanted: str) -> None:
    with pytest.raises(SettingsError, match="TESSERA_LAYOUT"):
        planned_layout(8, wanted)


@pytest.mark.parametrize(("layout", "px"), [("1x1x1", 32), ("1x2x4", 128), ("2x2x2", 64), ("1x1x12", 384)])
def test_the_longer_side_gives_each_patch_a_unit(layout: str, px: int) -> None:
    assert shortest_long_side_px(layout) == px
