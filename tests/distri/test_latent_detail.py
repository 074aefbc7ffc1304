"""What detail a model's latents have: measured, and kept beside the model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distri.measure_detail import detail_of
from distri.model.passes.latent_detail import LatentDetail, file_beside
from distri.ranks.errors import ModelError
from tests.distri.networks import seeded


def test_what_lies_far_from_what_is_expected_is_no_noise() -> None:
    """One element in a hundred is an edge, whose detail is large: the variance is that of all others."""
    latents = 0.5 * seeded(1, 1, 1, 512, 512, dtype=torch.float32)
    edges = (seeded(2, 1, 1, 512, 512, dtype=torch.float32) > 2.33) * 20.0
    plain, edged = (detail_of(one).variances_C3 for one in (latents, latents + edges))
    assert (plain / 0.25 - 1).abs().max() < 0.03
    assert (edged / plain - 1).abs().max() < 0.15


def test_detail_is_kept_beside_a_model(tmp_path: Path) -> None:
    found = detail_of(0.5 * seeded(1, 2, 4, 256, 256))
    assert np.allclose(found.variances, 0.25, rtol=0.1)  # of neighbours that are unlike nothing is foreseen
    assert LatentDetail.read(tmp_path, 4) is None
    found.write(tmp_path)
    assert LatentDetail.read(tmp_path, 4) == found
    single = tmp_path / "model.safetensors"
    single.touch()
    found.write(single)
    assert file_beside(single).name == "model.latent_detail.json"
    file_beside(tmp_path).write_text('{"pictures": 1, "variances": [[1, 2, 3]]}')  # of an earlier version
    assert LatentDetail.read(tmp_path, 1) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"pictures": 1, "variances": [[1, 2]]}',
        '{"pictures": 1, "variances": [[1, 2, -3]]}',
        '{"pictures": 1, "variances": [[1, 2, 3]], "slopes": [[1, 2, NaN]]}',
        '{"pictures": 1, "variances": [[1, 2, 3]], "slopes": []}',
        '{"pictures": 1, "variances": [[1, 2, 3]], "slopes": [[1, 2, 3], [1, 2, 3]]}',
        '{"pictures": 1, "slopes": [[1, 2, 3]]}',
        '{"pictures": 1, "variances": [[1, 2, 3], [1, 2, 3]], "slopes": [[1, 2, 3], [1, 2, 3]]}',
        "[]",
    ],
)
def test_a_file_of_detail_that_is_none_is_refused_with_what_writes_it(tmp_path: Path, text: str) -> None:
    file_beside(tmp_path).write_text(text)
    with pytest.raises(ModelError, match="measure_detail"):
        LatentDetail.read(tmp_path, 1)
