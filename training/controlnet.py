"""Training a ControlNet for the demo model: edges of a picture, as our own canny preprocessor finds them.

Zhang et al. 2023: a copy of the UNet's first half, which also sees the edges and adds to the UNet's own activations by
convolutions that begin as zeros; the UNet stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from distri.run.preprocessors import canny
from training import frozen
from training.checkpoint import average_of
from training.denoiser import LatentSet, Painter
from training.loop import Plan, learn
from training.paint import painted
from training.scenes import drawn

EDGE_CHANNELS = (8, 16, 32, 64)
TEXTLESS = 0.6  # of the pictures: their edges must do without words
COPIED_RATE, NEW_RATE = 5e-4, 2e-3
# What is added, times that of training, where a single step's error is least: over all steps edges are obeyed best so.
STRENGTH = 1.6


@dataclass(frozen=True)
class Edges:
    """Latents of one size and the edges of their pictures, BHW, bits packed along W."""

    latent_set: LatentSet
    packed: Any

    def picture(self, numbers: list[int]) -> Tensor:
        """What the network sees of some of them: B3HW, 0 to 1."""
        bits = torch.from_numpy(np.unpackbits(self.packed[numbers], axis=2)).float()
        return bits[:, None].expand(-1, 3, -1, -1)


def edges(directory: Path, latent_set: LatentSet, *, longer: int) -> Edges:
    """Those of the pictures that `denoiser.encode` encoded, from disk if they are there."""
    height, width = (int(side) for side in latent_set.sizes[0, :2])
    target = directory / f"edges-{longer}" / f"{width}x{height}.npy"
    if not target.exists() or len(np.load(target, mmap_mode="r")) < len(latent_set.seeds):
        target.parent.mkdir(exist_ok=True)
        pictures = np.load(directory / f"pictures-{longer}" / target.name, mmap_mode="r")[: len(latent_set.seeds)]
        found = np.stack([np.packbits(canny(np.asarray(one))[..., 0] > 0, axis=1) for one in pictures])
        unfinished = target.with_name("unfinished.npy")
        np.save(unfinished, found)
        unfinished.rename(target)
    return Edges(latent_set, np.load(target))


def begun(unet: Any) -> Any:
    """The network before training: what it adds is nothing, but edges already count in it as much as the latent does.

    Left as diffusers makes them, the convolutions that read edges give next to nothing: after 450 steps, pictures were
    the same with and without. So each is scaled to a deviation of 1 on some edges (Mishkin and Matas 2016), the last to
    that of what the latent becomes.
    """
    kind: Any = ControlNetModel
    network = kind.from_unet(unet, conditioning_embedding_out_channels=EDGE_CHANNELS)
    reader = network.controlnet_cond_embedding
    nn.init.normal_(reader.conv_out.weight)
    seen = np.stack([canny(painted(drawn(seed), 128, 128)) for seed in range(8)])
    values = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        wanted = network.conv_in(torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))).std()
        for layer in (reader.conv_in, *reader.blocks, reader.conv_out):
            scale = (wanted if layer is reader.conv_out else 1) / layer(values).std()
            layer.weight *= scale
            layer.bias *= scale
            values = functional.silu(layer(values))
    return network.train().requires_grad_(True)


def train(
    directory: Path,
    teacher: Painter,
    plan: Plan,
    small: list[Edges],
    large: list[Edges],
    *,
    evenly: bool = False,
    save_every: int = 100,
) -> Path:
    """Train from where the last run stopped to the plan's end, if it is not behind; returns the checkpoint.

    A longer plan after a shorter one is a warm restart (Loshchilov and Hutter 2017); `evenly` is as `frozen.lesson`'s.
    """
    torch.manual_seed(2)
    network = begun(teacher.unet)
    new = {name for name, _ in network.named_parameters() if name.startswith("controlnet_")}
    groups = [
        (rate, [weight for name, weight in network.named_parameters() if (name in new) == is_new])
        for rate, is_new in ((COPIED_RATE, False), (NEW_RATE, True))
    ]

    def loss(step: int, lot: Random) -> Tensor:
        sets, batch = (small, plan.small_batch) if step < plan.small_steps else (large, plan.large_batch)
        chosen = lot.choices(sets, weights=[len(one.latent_set.seeds) for one in sets])[0]
        one = frozen.lesson(teacher, chosen.latent_set, lot, batch=batch, textless=TEXTLESS, evenly=evenly)
        return _loss(network, teacher, chosen.picture(one.numbers), one)

    path = directory / "control.safetensors"
    return learn(path, network, groups, loss, steps=plan.steps, save_every=save_every)


def trained(directory: Path, teacher: Painter) -> Any:
    """The averaged network, which adds STRENGTH times as much as in training."""
    network = begun(teacher.unet)
    network.load_state_dict(average_of(directory / "control.safetensors"))
    with torch.no_grad():
        for layer in (*network.controlnet_down_blocks, network.controlnet_mid_block):
            layer.weight *= STRENGTH
            layer.bias *= STRENGTH
    return network.eval().requires_grad_(False)


def _loss(network: Any, teacher: Painter, seen: Tensor, one: frozen.Lesson) -> Tensor:
    """Squared error of the velocity that the UNet predicts with what the network adds."""
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        down, middle = network(one.noisy, one.timesteps, one.text, seen, added_cond_kwargs=one.added, return_dict=False)
        predicted = teacher.unet(
            one.noisy,
            one.timesteps,
            one.text,
            added_cond_kwargs=one.added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
    error: Tensor = (predicted.float() - one.velocity).square().mean()
    return error
