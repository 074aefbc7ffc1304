"""The softmax of chunks of attention, in Triton's interpreter, against PyTorch's in double precision."""

import pytest
import torch

from distri.layers.kernels.softmax import BLOCK, softmax
from tests.distri.networks import relative, seeded


@pytest.mark.parametrize("columns", [1, 37, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float16, 2.0**-10)])
def test_rows_are_those_of_pytorch(columns: int, dtype: torch.dtype, bound: float) -> None:
    scores = (9 * seeded(1, 2, 3, columns)).float()
    scores[0, 1] += 5000.0  # far from zero
    scores[1, 2] -= 5000.0
    found = softmax(scores, dtype)
    assert found.dtype == dtype
    assert relative(found.double(), scores.double().softmax(-1)) < bound


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, which the interpreter computes with
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_with_what_is_no_number_is_not_finite_and_its_neighbours_are(value: float) -> None:
    scores = seeded(1, 1, 3, 50).float()
    scores[0, 1, 7] = value
    finite = torch.isfinite(softmax(scores, torch.float16)).all(-1)
    assert finite.tolist() == [[True, False, True]]
