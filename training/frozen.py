"""The demo model read back from its directory, for what is trained beside it: it stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from training import networks
from training.denoiser import LatentSet, Painter
from training.scenes import caption

PARTS = ("unet", "text_encoder", "text_encoder_2")


def painter(model: Path) -> Painter:
    """UNet and text encoders of a directory, float32, for inference."""
    whole = Painter(networks.tokenizers())
    for part in PARTS:
        (weights,) = (model / part).glob("*.safetensors")
        getattr(whole, part).load_state_dict(load_file(weights))
    return whole.float().eval().requires_grad_(False)


def vae(model: Path) -> Any:
    """Its VAE, float32."""
    return AutoencoderKL.from_pretrained(model / "vae").float().eval().requires_grad_(False)


@dataclass(frozen=True)
class Lesson:
    """One batch to learn from.

    Attributes:
        numbers: of the pictures in their set.
        noisy, velocity: BCHW, what the network is given and should say.
        timesteps: B.
        text, pooled: BLC and BC, zeros where a text is left out.
        sizes: B x 6.
    """

    numbers: list[int]
    noisy: Tensor
    velocity: Tensor
    timesteps: Tensor
    text: Tensor
    pooled: Tensor
    sizes: Tensor

    @property
    def added(self) -> dict[str, Tensor]:
        """What SDXL's UNet takes beside the text."""
        return {"text_embeds": self.pooled, "time_ids": self.sizes}


@torch.no_grad()
def lesson(
    teacher: Painter, latent_set: LatentSet, lot: Random, *, batch: int, textless: float, evenly: bool = False
) -> Lesson:
    """Pictures, noise and captions by lot; timesteps as often as they are late, where it is decided what is where.

    Args:
        teacher: whose text encoders read the captions.
        latent_set: of one size.
        lot: decides everything.
        batch: how many.
        textless: share of pictures without a text; half of them have the empty one, half zeros.
        evenly: all timesteps equally often, for what is small, too.
    """
    numbers = [lot.randrange(len(latent_set.seeds)) for _ in range(batch)]
    latents = torch.from_numpy(latent_set.latents[numbers]).float()
    generator = torch.Generator().manual_seed(lot.getrandbits(40))
    noise = torch.randn(latents.shape, generator=generator)
    shares = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    timesteps = ((shares if evenly else shares.sqrt()) * 1000).long()
    cumulated = networks.noise_schedule().alphas_cumprod[timesteps][:, None, None, None]
    signal, spread = cumulated.sqrt(), (1 - cumulated).sqrt()
    fates = [lot.random() for _ in numbers]
    texts = [
        "" if fate < textless else caption(latent_set.draw(latent_set.seeds[number]), lot)
        for number, fate in zip(numbers, fates, strict=True)
    ]
    kept = torch.tensor([float(fate >= textless / 2) for fate in fates])
    text, pooled = teacher.embedded(texts)
    return Lesson(
        numbers,
        signal * latents + spread * noise,
        signal * noise - spread * latents,
        timesteps,
        text * kept[:, None, None],
        pooled * kept[:, None],
        torch.from_numpy(latent_set.sizes[numbers]),
    )
