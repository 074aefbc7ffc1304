"""Training an IP-Adapter for the demo model: a reference scene as tokens beside those of the text.

Ye et al. 2023: the pooled embedding of a picture becomes a few tokens, for which each cross-attention layer gets keys
and values of its own; the UNet stays as it is. Here the image encoder is small, and learns along.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training import frozen, networks, traits
from training.checkpoint import average_of
from training.denoiser import LatentSet, Painter
from training.loop import Plan, learn

TOKENS = 4
TEXTLESS, PICTURELESS = 0.6, 0.1  # shares of pictures whose text and whose reference is left out
PEAK_RATE, ENCODER_RATE = 1e-3, 1e-4


@dataclass(frozen=True)
class Shown:
    """Latents of square pictures, and the pictures, BHWC."""

    latent_set: LatentSet
    pictures: Any


def shown(directory: Path, sets: list[LatentSet], *, longer: int) -> list[Shown]:
    """The square ones of what `denoiser.encode` encoded: an encoder sees a picture's middle square, here all of it."""
    square = [one for one in sets if one.sizes[0, 0] == one.sizes[0, 1]]
    file = directory / f"pictures-{longer}" / f"{longer}x{longer}.npy"
    return [Shown(one, np.load(file, mmap_mode="r")) for one in square]


class Adapter(nn.Module):
    """What is learnt: the encoder, what makes tokens of its embedding, and keys and values by layer.

    Args:
        unet: whose cross-attention layers get them; it is changed to attend to them.
        encoder: of pictures.
    """

    def __init__(self, unet: Any, encoder: Any) -> None:
        super().__init__()
        width = sum(networks.TEXT_WIDTHS)
        self.encoder = encoder
        self.projection = ImageProjection(traits.WIDTH, width, TOKENS)
        processors, layers = dict(unet.attn_processors), []
        for site, module in unet.named_modules():
            if type(module).__name__ == "Attention" and module.is_cross_attention:
                layer: Any = IPAdapterAttnProcessor2_0(module.to_k.weight.shape[0], width, num_tokens=(TOKENS,))
                layer.to_k_ip[0].weight.data.copy_(module.to_k.weight)
                layer.to_v_ip[0].weight.data.copy_(module.to_v.weight)
                processors[f"{site}.processor"] = layer
                layers.append(layer)
        unet.set_attn_processor(processors)
        self.layers = nn.ModuleList(layers)

    def tokens(self, values_B3HW: Tensor, kept_B: Tensor) -> Tensor:
        """Those of pictures as the encoder reads them; where `kept_B` is 0, of none."""
        embedded: Tensor = self.encoder(values_B3HW).image_embeds * kept_B[:, None]
        return torch.as_tensor(self.projection(embedded))

    def tensors(self) -> dict[str, Tensor]:
        """The file of an adapter, in its authors' naming: layers count all attention, of which every second is self."""
        found = {
            f"image_proj.{name.replace('image_embeds.', 'proj.')}": weight
            for name, weight in self.projection.state_dict().items()
        }
        for number, layer in enumerate(self.layers):
            own: Any = layer
            found[f"ip_adapter.{2 * number + 1}.to_k_ip.weight"] = own.to_k_ip[0].weight
            found[f"ip_adapter.{2 * number + 1}.to_v_ip.weight"] = own.to_v_ip[0].weight
        return {name: weight.detach() for name, weight in found.items()}


def train(
    directory: Path, teacher: Painter, plan: Plan, small: list[Shown], large: list[Shown], *, save_every: int = 100
) -> Path:
    """Train from where the last run stopped to the plan's end, on what `traits.train` left; returns the checkpoint."""
    torch.manual_seed(4)
    network = Adapter(teacher.unet, traits.trained(directory)).train().requires_grad_(True)
    own = [weight for name, weight in network.named_parameters() if not name.startswith("encoder.")]
    groups = [(PEAK_RATE, own), (ENCODER_RATE, list(network.encoder.parameters()))]

    def loss(step: int, lot: Random) -> Tensor:
        sets, batch = (small, plan.small_batch) if step < plan.small_steps else (large, plan.large_batch)
        chosen = lot.choices(sets, weights=[len(one.latent_set.seeds) for one in sets])[0]
        return _loss(network, teacher, chosen, lot, batch)

    path = directory / "ip_adapter.safetensors"
    return learn(path, network, groups, loss, steps=plan.steps, save_every=save_every)


def trained(directory: Path, teacher: Painter) -> Adapter:
    """The averaged adapter with its encoder."""
    network = Adapter(teacher.unet, traits.encoder())
    network.load_state_dict(average_of(directory / "ip_adapter.safetensors"))
    return network.eval().requires_grad_(False)


def _loss(network: Adapter, teacher: Painter, chosen: Shown, lot: Random, batch: int) -> Tensor:
    """Squared error of the velocity that the UNet predicts when it is shown the picture that is behind the noise."""
    one = frozen.lesson(teacher, chosen.latent_set, lot, batch=batch, textless=TEXTLESS)
    kept = torch.tensor([float(lot.random() >= PICTURELESS) for _ in one.numbers])
    values = traits.seen(np.stack([chosen.pictures[number] for number in one.numbers]))
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        attended = (one.text, [network.tokens(values, kept)[:, None]])
        predicted = teacher.unet(one.noisy, one.timesteps, attended, added_cond_kwargs=one.added).sample
    error: Tensor = (predicted.float() - one.velocity).square().mean()
    return error
