"""Sizes from what a row and a batch say of them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.promptset.decisions.sizes import UNIT_PX, GivenSize, size

WIDE = 16 / 9


@pytest.mark.parametrize(
    ("row", "batch", "expected"),
    [
        ({}, {}, (1024, 1024)),
        ({"width": 333}, {}, (333, 1024)),
        ({"width": 333, "height": 777}, {"aspect": WIDE}, (333, 777)),
        ({"size": (832, 1216)}, {"width": 64}, (832, 1216)),
        ({}, {"size": (832, 1216)}, (832, 1216)),
        ({"width": 136}, {"width": 128, "height": 168}, (136, 168)),
        ({"height": 168}, {"size": (128, 128)}, (128, 168)),
        ({"aspect": WIDE}, {}, (1368, 768)),  # as many pixels as the native size
        ({"aspect": 1.0, "megapixels": 4.0}, {}, (2000, 2000)),
        ({"aspect": WIDE, "width": 1920}, {}, (1920, 1080)),
        ({"aspect": WIDE, "height": 1080}, {}, (1920, 1080)),
        ({"aspect": WIDE, "width": 1000}, {}, (1000, 560)),  # 562.5, to a multiple of 8
        ({"aspect": WIDE}, {"width": 1920}, (1920, 1080)),
        ({"aspect": WIDE}, {"size": (2048, 2048)}, (2728, 1536)),  # as many pixels as the batch's size
        ({"aspect": WIDE}, {"megapixels": 2.0}, (1888, 1064)),
        ({"width": 1920}, {"aspect": WIDE}, (1920, 1080)),
        ({"width": 1920}, {"aspect": WIDE, "height": 64}, (1920, 64)),
        ({"megapixels": 4.0}, {}, (2000, 2000)),
        ({"megapixels": 2.0}, {"aspect": WIDE}, (1888, 1064)),
        ({"megapixels": 4.0}, {"size": (1024, 2048)}, (1416, 2832)),
        ({"megapixels": 4.0}, {"width": 64}, (2000, 2000)),
    ],
)
def test_the_row_wins_and_the_batch_completes_it(
    row: dict[str, Any], batch: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert size(GivenSize.of(row), GivenSize.of(batch), 1024) == expected


@pytest.mark.parametrize("megapixels", [0.3, 1.0, 2.5, 24.0])
@pytest.mark.parametrize("aspect", [1.0, 4 / 3, WIDE, 21 / 9, 2**0.5, 0.5, 1 / 3])
def test_sides_of_an_aspect_are_the_nearest_multiples_of_8(aspect: float, megapixels: float) -> None:
    width, height = size(GivenSize(aspect=aspect, megapixels=megapixels), GivenSize(), 1024)
    assert width % UNIT_PX == height % UNIT_PX == 0
    assert abs(width - (megapixels * 1e6 * aspect) ** 0.5) <= UNIT_PX / 2
    assert abs(height - (megapixels * 1e6 / aspect) ** 0.5) <= UNIT_PX / 2
