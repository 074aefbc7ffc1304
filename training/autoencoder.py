"""Training the VAE: pictures to latents of an eighth of the side and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training import data, networks
from training.checkpoint import Average, Clock, average_of, load, save, warmed_and_cooled

CROP, BATCH = 96, 4  # a smaller crop is often of one colour, and its normalisation unlike a picture's
LONGER = 256
PEAK_RATE = 1e-3
DIVERGENCE = 1e-4  # weight of the distance of the latents to a unit Gaussian


def train(directory: Path, *, pictures: int, steps: int, save_every: int = 100) -> Path:
    """Train both halves on crops of pictures of 256 px, from where the last run stopped, up to `steps`.

    Returns:
        The checkpoint. `vae.jsonl` beside it holds step, loss and CPU seconds.
    """
    torch.manual_seed(0)
    return _train(directory / "vae.safetensors", networks.vae(), _arrays(directory, pictures), steps, save_every)


def train_decoder(directory: Path, *, pictures: int, steps: int, save_every: int = 100) -> Path:
    """Go on with the decoder alone: the latents stay what they are, so that the UNet can be trained at the same time.

    Returns:
        The checkpoint. `decoder.jsonl` beside it holds step, loss and CPU seconds.
    """
    network = networks.vae()
    _load_average(directory / "vae.safetensors", network)
    for half in (network.encoder, network.quant_conv):
        half.requires_grad_(False)
    return _train(directory / "decoder.safetensors", network, _arrays(directory, pictures), steps, save_every)


def _train(path: Path, network: Any, arrays: list[Any], steps: int, save_every: int) -> Path:
    network.to(memory_format=torch.channels_last)  # an eighth faster
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    average = Average(network, 0.995)
    done, spent_s = load(path, network=network, average=average, optimizer=optimizer)
    clock = Clock(spent_s)
    for step in range(done, steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * warmed_and_cooled(step, steps, warmup=100)
        picture = _crops(arrays, step)
        generator = torch.Generator().manual_seed(step)
        loss = _loss(network, picture.to(memory_format=torch.channels_last), generator)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        average.follow(network, step)
        if (step + 1) % 20 == 0:
            _note(path.with_suffix(".jsonl"), step + 1, loss, clock)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(path, step=step + 1, cpu_s=clock.cpu_s, network=network, average=average, optimizer=optimizer)
    return path


def trained(directory: Path, *, pictures: int) -> Any:
    """The averaged VAE, its latents shifted and scaled per channel to mean 0 and deviation 1.

    The decoder is that of `train_decoder` if it has run; the latents do not depend on it. Shift and scale are folded
    into the 1x1 convolutions next to the latent, so that the directory needs no setting that another program might not
    read.
    """
    network = networks.vae()
    _load_average(directory / "vae.safetensors", network)
    if (directory / "decoder.safetensors").exists():
        _load_average(directory / "decoder.safetensors", network)
    network.eval().requires_grad_(False)
    some = [array[:32] for array in _arrays(directory, pictures)]
    with torch.no_grad():
        means = [network.encode(as_input(pictures)).latent_dist.mean.transpose(0, 1).flatten(1) for pictures in some]
    values = torch.cat(means, dim=1)
    shift, scale = values.mean(dim=1), values.std(dim=1)
    _fold(network, shift, scale)
    return network


def as_input(pictures: Any) -> Tensor:
    """uint8 BHWC to float32 BCHW from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _load_average(path: Path, network: nn.Module) -> None:
    network.load_state_dict(average_of(path))


@torch.no_grad()
def _fold(network: Any, shift: Tensor, scale: Tensor) -> None:
    """Make the encoder give (mean - shift) / scale, and the decoder take it."""
    channels = len(shift)
    out, back = network.quant_conv, network.post_quant_conv
    out.weight[:channels] /= scale[:, None, None, None]
    out.bias[:channels] = (out.bias[:channels] - shift) / scale
    out.bias[channels:] -= 2 * scale.log()
    back.bias += back.weight[:, :, 0, 0] @ shift
    back.weight *= scale[None, :, None, None]


def _arrays(directory: Path, pictures: int) -> list[Any]:
    """Of every size those of the first seeds; there may be more in the folder."""
    folder = data.render(directory, longer=LONGER, count=pictures)
    return [
        np.load(folder / f"{width}x{height}.npy", mmap_mode="r")[
            : len(data.seeds_of((width, height), LONGER, pictures))
        ]
        for width, height in sorted(set(data.sizes(LONGER)))
    ]


def _crops(arrays: list[Any], step: int) -> Tensor:
    lot = np.random.default_rng(step)
    crops = []
    for _ in range(BATCH):
        pictures = arrays[lot.integers(len(arrays))]
        one = pictures[lot.integers(len(pictures))]
        top, left = lot.integers(one.shape[0] - CROP + 1), lot.integers(one.shape[1] - CROP + 1)
        crop = one[top : top + CROP, left : left + CROP]
        crops.append(crop[:, ::-1] if lot.random() < 0.5 else crop)
    return as_input(np.stack(crops))


def _loss(network: Any, picture: Tensor, generator: torch.Generator) -> Tensor:
    """Absolute error, that of the differences between neighbours at two scales (edges), and the divergence."""
    with torch.autocast("cpu", torch.bfloat16):
        latent = network.encode(picture).latent_dist
        drawn = latent.mean + latent.std * torch.randn(latent.mean.shape, generator=generator)
        painted = network.decode(drawn).sample
    painted = painted.float()
    target = picture
    loss: Tensor = functional.l1_loss(painted, target) + 0.5 * functional.mse_loss(painted, target)
    for _ in range(2):
        for dim in (2, 3):
            loss = loss + functional.l1_loss(painted.diff(dim=dim), target.diff(dim=dim))
        painted, target = functional.avg_pool2d(painted, 2), functional.avg_pool2d(target, 2)
    mean, logvar = latent.mean.float(), latent.logvar.float()
    divergence: Tensor = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return loss + DIVERGENCE * divergence


def _note(path: Path, step: int, loss: Tensor, clock: Clock) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "loss": round(loss.item(), 5), "cpu_s": round(clock.cpu_s, 1)}) + "\n")
