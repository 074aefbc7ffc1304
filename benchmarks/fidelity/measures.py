"""How far two pictures are apart, and whether the borders of patches show."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from distri.ranks.patches import ROWS, Patches

Picture = npt.NDArray[np.uint8]  # height x width x 3


def psnr(picture: Picture, reference: Picture) -> float:
    """Peak signal to noise ratio over all pixels and colours, in dB; infinite for equal pictures."""
    error = np.square(picture.astype(np.float64) - reference).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(picture: Picture, reference: Picture) -> float:
    """Structural similarity of the luminance, 1 for equal pictures (Wang et al. 2004, a Gaussian window of 11)."""
    x, y = (_luminance(one) for one in (picture, reference))
    at = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-at.square() / (2 * 1.5**2))
    kernel = (window[:, None] * window[None, :] / window.sum() ** 2)[None, None]

    def mean(image: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(image, kernel)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(similar.mean())


def seam(picture: Picture, reference: Picture, patches: Patches) -> float:
    """How much steeper a picture is across its patches' borders than elsewhere, beside the one-rank picture.

    The mean absolute difference of neighbouring pixels across the borders, divided by that at all other places, and
    this ratio by the same ratio of the reference: 1 means that the borders do not show.

    Args:
        patches: of the latent; a pixel border is eight times as far.
    """
    return _steepness(picture, patches) / _steepness(reference, patches)


def _steepness(picture: Picture, patches: Patches) -> float:
    along = 0 if patches.dim == ROWS else 1
    other = 1 - along
    steps = np.abs(np.diff(picture.astype(np.float64), axis=along)).mean(axis=(other, 2))
    borders = np.array(patches.edges[1:-1]) * 8 - 1
    elsewhere = np.delete(steps, borders)
    # Half a level of 255 on both sides keeps flat pictures from dividing by nothing.
    return float((steps[borders].mean() + 0.5) / (elsewhere.mean() + 0.5))


def _luminance(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114]))[None, None]
