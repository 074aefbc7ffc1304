"""What the passes of a cascade begin with: one noise for all of them, and a latent that grows on its path."""

# C channels, H and W rows and columns of the smaller picture

from collections.abc import Sequence

import torch
from torch import Tensor

from distri.model.passes.latent_detail import LatentDetail
from distri.model.passes.stages import Part
from distri.model.sampling.schedulers import Steps
from distri.sampling.haar import analysed, halved, synthesised

UNMEASURED = (
    "nobody has measured how much detail the model's latents have, so a cascade adds noise alone where it grows; "
    "python -m distri.measure_detail measures it"
)


def begin_part(
    parts: Sequence[Part], walk: Steps, unit_1CHW: Tensor, latent_1CHW: Tensor | None, detail: LatentDetail | None
) -> Tensor:
    """The latent that the last of these parts of a cascade begins with. No communication.

    Args:
        parts: of its schedule, as far as they are begun.
        walk: of the last one.
        unit_1CHW: unit noise of the whole picture, the same for all parts.
        latent_1CHW: where the part before has ended; None is before the first one.
        detail: of the model's latents; None adds none.
    """
    part = parts[-1]
    if latent_1CHW is None:
        return walk.begin(None, halved(unit_1CHW, part.halvings))
    variances_C3 = torch.zeros(latent_1CHW.shape[1], 3) if detail is None else detail.variances_C3
    for halvings in range(parts[-2].halvings - 1, part.halvings - 1, -1):
        sigma = walk.sigma / 2 ** (halvings - part.halvings)
        latent_1CHW = raised(latent_1CHW, halved(unit_1CHW, halvings), sigma, variances_C3)
    return latent_1CHW


def raised(latent_1CHW: Tensor, noise_1CHW: Tensor, sigma: float, variances_C3: Tensor) -> Tensor:
    """A noisy latent as that of a picture of twice the sides, in the middle of one trajectory.

    Up by the transpose of the orthonormal down; the detail that is new has the variance that it has there: its own and
    the noise's (Jing et al. 2022, "Subspace Diffusion Generative Models", section 4). With detail of that variance and
    nothing else known of it, this is where the larger picture's own trajectory would have come from the same noise.

    Args:
        latent_1CHW: z + s/2 n of the smaller picture, where a latent of the larger one has z + s n.
        noise_1CHW: unit noise in the larger size, of which the smaller trajectory began with the first coefficients.
        sigma: s, the noise that the larger latent is to have.
        variances_C3: of the detail of a latent without noise.
    """
    detail_1C3HW = analysed(noise_1CHW)[:, :, 1:]
    scale_1C311 = (variances_C3.to(noise_1CHW) + sigma**2).sqrt()[None, :, :, None, None]
    # A picture of half the sides shows the mean of four, and the first coefficient is twice that.
    return synthesised(torch.cat((2 * latent_1CHW[:, :, None], detail_1C3HW * scale_1C311), 2))
