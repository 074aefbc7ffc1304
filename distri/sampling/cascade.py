"""What the later passes of a cascade begin with: a latent that grows on its path, and noise for what is new."""

# C channels, H and W rows and columns of the smaller picture

import torch
from torch import Generator, Tensor

from distri.model.passes.latent_detail import LatentDetail
from distri.sampling.denoising import noise
from distri.sampling.haar import synthesised

UNMEASURED = (
    "nobody has measured how much detail the model's latents have, so a cascade adds noise alone where it grows; "
    "python -m distri.measure_detail measures it"
)


def grown(latent_1CHW: Tensor, times: int, sigma: float, generator: Generator, detail: LatentDetail | None) -> Tensor:
    """A noisy latent as that of a picture so many times doubled, in the middle of one trajectory. No communication.

    Args:
        latent_1CHW: where the pass before has ended.
        times: how often its sides double.
        sigma: the noise that the larger latent is to have.
        generator: of the noise of all that is new; what is there keeps its own, which the smaller picture began with.
        detail: of the model's latents; None adds none.
    """
    channels = latent_1CHW.shape[1]
    variances_C3 = torch.zeros(channels, 3) if detail is None else detail.variances_C3
    for left in reversed(range(times)):
        rows, columns = latent_1CHW.shape[2:]
        new_1C3HW = noise(generator, 3 * channels, rows, columns).view(1, channels, 3, rows, columns)
        latent_1CHW = raised(latent_1CHW, new_1C3HW.to(latent_1CHW.device), sigma / 2**left, variances_C3)
    return latent_1CHW


def raised(latent_1CHW: Tensor, noise_1C3HW: Tensor, sigma: float, variances_C3: Tensor) -> Tensor:
    """A noisy latent as that of a picture of twice the sides.

    Up by the transpose of the orthonormal down; the detail that is new has the variance that it has there: its own and
    the noise's (Jing et al. 2022, "Subspace Diffusion Generative Models", section 4). With detail of that variance and
    nothing else known of it, this is where the larger picture's own trajectory would have come from noise that has the
    smaller one's in its first coefficients, and this beside them.

    Args:
        latent_1CHW: z + s/2 n of the smaller picture, where a latent of the larger one has z + s n.
        noise_1C3HW: unit noise of the three details of each element.
        sigma: s, the noise that the larger latent is to have.
        variances_C3: of the detail of a latent without noise.
    """
    scale_1C311 = (variances_C3.to(noise_1C3HW) + sigma**2).sqrt()[None, :, :, None, None]
    # A picture of half the sides shows the mean of four, and the first coefficient is twice that.
    return synthesised(torch.cat((2 * latent_1CHW[:, :, None], noise_1C3HW * scale_1C311), 2))
