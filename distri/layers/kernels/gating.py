"""The gate of a feed-forward network, x GELU(gate), in one reading (Shazeer 2020, GEGLU)."""

# N tokens, C channels after the gate

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 4, 512
HALF_SQRT_2 = tl.constexpr(0.7071067811865476)


@triton.jit(do_not_specialize=["tokens"])
def _gate(x, y, tokens, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < tokens)[:, None] & (column < channels)[None, :]
    offsets = row[:, None].to(tl.int64) * (2 * channels) + column[None, :]
    value = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + offsets + channels, mask=mask, other=0.0).to(tl.float32)
    value *= 0.5 * gate * (1.0 + tl.erf(gate * HALF_SQRT_2))
    tl.store(y + row[:, None].to(tl.int64) * channels + column[None, :], value.to(y.dtype.element_ty), mask=mask)


def gated(x_N2C: Tensor) -> Tensor:
    """The first half of the channels times the GELU (by erf) of the second; any dimensions before the channels."""
    x_N2C = x_N2C.contiguous()
    channels = x_N2C.shape[-1] // 2
    y_NC = torch.empty((*x_N2C.shape[:-1], channels), dtype=x_N2C.dtype, device=x_N2C.device)
    tokens = x_N2C.numel() // (2 * channels)
    grid = (triton.cdiv(tokens, ROWS), triton.cdiv(channels, COLUMNS))
    _gate[grid](x_N2C, y_NC, tokens, channels, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=4)
    return y_NC
