"""What the later passes of a cascade begin with: a latent that grows on its path, and noise for what is new."""

# C channels, H and W rows and columns of the smaller picture

import torch
from torch import Generator, Tensor

from distri.model.passes.latent_detail import LatentDetail
from distri.sampling.denoising import noise
from distri.sampling.haar import smooth_detail, synthesised

UNMEASURED = (
    "nobody has measured what detail the model's latents have, or an earlier version has, so where a cascade grows it "
    "expects that of an enlarged latent; python -m distri.measure_detail measures it"
)


def grown(
    latent_1CHW: Tensor,
    clean_1CHW: Tensor,
    times: int,
    *,
    sigma: float,
    generator: Generator,
    detail: LatentDetail | None,
) -> Tensor:
    """A noisy latent as that of a picture so many times doubled, in the middle of one trajectory. No communication.

    Args:
        latent_1CHW: where the pass before has ended.
        clean_1CHW: the latent without noise as that pass saw it last.
        times: how often its sides double.
        sigma: the noise that the larger latent is to have.
        generator: of the noise of all that is new; what is there keeps its own, which the smaller picture began with.
        detail: of the model's latents; None expects that of an enlarged latent.
    """
    channels = latent_1CHW.shape[1]
    detail = detail or LatentDetail.unmeasured(channels)
    slopes_1C311 = detail.slopes_C3.to(clean_1CHW)[None, :, :, None, None]
    for left in reversed(range(times)):
        rows, columns = latent_1CHW.shape[2:]
        new_1C3HW = noise(generator, 3 * channels, rows, columns).view(1, channels, 3, rows, columns)
        new_1C3HW = new_1C3HW.to(latent_1CHW.device)
        expected_1C3HW = smooth_detail(clean_1CHW) * slopes_1C311
        latent_1CHW = raised(latent_1CHW, expected_1C3HW, new_1C3HW, sigma / 2**left, detail.variances_C3)
        # A picture of half the sides shows the mean of four, and the first coefficient is twice that.
        clean_1CHW = synthesised(torch.cat((2 * clean_1CHW[:, :, None], expected_1C3HW), 2))
    return latent_1CHW


def raised(
    latent_1CHW: Tensor, expected_1C3HW: Tensor, noise_1C3HW: Tensor, sigma: float, variances_C3: Tensor
) -> Tensor:
    """A noisy latent as that of a picture of twice the sides.

    Up by the transpose of the orthonormal down; the detail that is new has the mean and the variance that it has there,
    as far as the smaller picture tells them, and the noise's (Jing et al. 2022, "Subspace Diffusion Generative Models",
    section 4, who have a mean of 0). If the detail is Gaussian and its mean so, this is where the larger picture's own
    trajectory would have come from noise that has the smaller one's in its first coefficients, and this beside them.

    Args:
        latent_1CHW: z + s/2 n of the smaller picture, where a latent of the larger one has z + s n.
        expected_1C3HW: mean of the detail of the latent without noise.
        noise_1C3HW: unit noise of the three details of each element.
        sigma: s, the noise that the larger latent is to have.
        variances_C3: of the detail of a latent without noise, around that mean.
    """
    scale_1C311 = (variances_C3.to(noise_1C3HW) + sigma**2).sqrt()[None, :, :, None, None]
    new_1C3HW = expected_1C3HW.to(noise_1C3HW) + noise_1C3HW * scale_1C311
    return synthesised(torch.cat((2 * latent_1CHW[:, :, None], new_1C3HW), 2))
