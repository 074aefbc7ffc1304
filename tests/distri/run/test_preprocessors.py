"""What is made of pictures before control networks see them."""

from __future__ import annotations

import numpy as np
import pytest

from distri.run.preprocessors import preprocessed
from pipeline.input_picture import Preprocess

PICTURE = np.random.default_rng(5).integers(0, 255, (75, 101, 3)).astype(np.uint8)


@pytest.mark.parametrize("how", list(Preprocess))
def test_the_picture_keeps_its_size_and_is_made_alike_again(how: Preprocess) -> None:
    found = preprocessed(PICTURE, how)
    assert (found.shape, found.dtype.name) == (PICTURE.shape, "uint8")
    assert np.array_equal(found, preprocessed(PICTURE, how))
    assert np.array_equal(found, PICTURE) is (how is Preprocess.NONE)


def test_edges_of_a_square_are_one_pixel_wide_and_closed() -> None:
    square = np.full((40, 50, 3), 20, np.uint8)
    square[10:30, 15:35] = 220
    found = preprocessed(square, Preprocess.CANNY)
    assert set(np.unique(found)) == {0, 255}
    edges = found[..., 0] > 0
    assert edges[20].sum() == 2
    assert edges[:, 25].sum() == 2
    rows, columns = np.nonzero(edges)
    assert rows.min() in (9, 10)
    assert columns.max() in (34, 35)
    assert 70 <= edges.sum() <= 84


def test_a_weak_edge_stays_where_it_leads_to_a_strong_one() -> None:
    steps = np.zeros((40, 60, 3), np.uint8)
    steps[:, 20:30] = np.linspace(26, 70, 40).astype(np.uint8)[:, None, None]  # gradients of 104 to 280
    steps[:, 45:] = 30  # 120 everywhere: weak, and nothing strong touches it
    edges = preprocessed(steps, Preprocess.CANNY)[..., 0] > 0
    assert edges[2:, 18:22].any(axis=1).all()
    assert not edges[:, 43:47].any()


def test_grey_blur_and_tile() -> None:
    assert np.ptp(preprocessed(PICTURE, Preprocess.GREY), axis=2).max() == 0
    for how in (Preprocess.BLUR, Preprocess.TILE):
        found = preprocessed(PICTURE, how).astype(float)
        assert found.std() < 0.5 * PICTURE.std()
        assert abs(found.mean() - PICTURE.mean()) < 2
