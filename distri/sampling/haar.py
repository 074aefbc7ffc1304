"""Latents by Haar's orthonormal coefficients: what a picture of half the sides shows, and the detail beside it."""

# B batch, C channels, H and W rows and columns of the smaller picture

import torch
from torch import Tensor
from torch.nn import functional


def analysed(x_BCHW: Tensor) -> Tensor:
    """Coefficients of each square of four, BC4HW: half their sum, then the detail across, down and in both directions.

    Orthonormal: unit noise stays unit noise. Both sides of `x_BCHW` are even. It is its own inverse: `synthesised`.
    """
    left, right = x_BCHW[..., 0::2], x_BCHW[..., 1::2]
    a, b, c, d = left[..., 0::2, :], right[..., 0::2, :], left[..., 1::2, :], right[..., 1::2, :]
    return torch.stack((a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d), 2) / 2


def synthesised(coefficients_BC4HW: Tensor) -> Tensor:
    """What has these coefficients, with twice as many rows and columns."""
    low, across, down, both = coefficients_BC4HW.unbind(2)
    upper = low + across + down + both, low - across + down - both
    lower = low + across - down - both, low - across - down + both
    batch, channels, _, rows, columns = coefficients_BC4HW.shape
    whole_BCHW = torch.stack((*upper, *lower), -1).view(batch, channels, rows, columns, 2, 2) / 2
    return whole_BCHW.transpose(3, 4).reshape(batch, channels, 2 * rows, 2 * columns)


def halved(x_BCHW: Tensor, times: int) -> Tensor:
    """The first coefficients, as many times over: of unit noise, unit noise for a picture so much smaller."""
    for _ in range(times):
        x_BCHW = analysed(x_BCHW)[:, :, 0]
    return x_BCHW


def smooth_detail(x_BCHW: Tensor) -> Tensor:
    """The detail, BC3HW, of a latent of twice the sides that shows no more than this one: its bicubic enlargement's."""
    return analysed(functional.interpolate(x_BCHW, scale_factor=2, mode="bicubic", align_corners=False))[:, :, 1:]
