"""Softmax over rows of scores in float32 into the half type that the values have, in two readings and one writing.

PyTorch's own, followed by a conversion, takes twice the memory traffic, and for attention whose scores are written out
that is what it costs (Milakov and Gimelshein 2018: maximum and sum in one reading).
"""

# N batch times heads, R rows (queries), K columns (keys)

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
LOWEST = tl.constexpr(-1e30)  # finite, so that lanes beyond the last column add nothing instead of what is no number


@triton.jit
def _softmax(scores, weights, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * columns
    lane = tl.arange(0, BLOCK)
    largest = tl.full((BLOCK,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + lane
        value = tl.load(scores + row + column, mask=column < columns, other=2 * LOWEST)
        higher = tl.maximum(largest, value)
        total = total * tl.exp(largest - higher) + tl.exp(value - higher)
        largest = higher
    top = tl.max(largest, 0)
    share = 1.0 / tl.sum(total * tl.exp(largest - top), 0)
    for start in range(0, columns, BLOCK):
        column = start + lane
        value = tl.load(scores + row + column, mask=column < columns, other=2 * LOWEST)
        weight = tl.exp(value - top) * share
        tl.store(weights + row + column, weight.to(weights.dtype.element_ty), mask=column < columns)


def softmax(scores_NRK: Tensor, dtype: torch.dtype) -> Tensor:
    """Softmax over the last dimension, of shape NRK.

    Args:
        scores_NRK: contiguous float32.
        dtype: of the result.

    No communication. What is not finite makes its row not finite.
    """
    weights_NRK = torch.empty(scores_NRK.shape, dtype=dtype, device=scores_NRK.device)
    columns = scores_NRK.shape[-1]
    _softmax[(scores_NRK.numel() // columns,)](scores_NRK, weights_NRK, columns, BLOCK=BLOCK, num_warps=8)
    return weights_NRK
