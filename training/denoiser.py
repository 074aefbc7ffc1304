"""Training the UNet and both text encoders together, on latents of pictures and fresh captions of their scenes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training import data, networks
from training.autoencoder import as_input, load_average
from training.checkpoint import Average, Clock, load, save
from training.scenes import caption, drawn

NO_PROMPT, EMPTY_PROMPT = 0.08, 0.04  # shares of pictures whose text is left out, in SDXL's two ways
PEAK_RATE, WARMUP_STEPS = 1e-3, 150


@dataclass(frozen=True)
class Plan:
    """How long to train on what.

    Attributes:
        small_steps, small_batch: on pictures of 128 px, where composition is learnt four times as fast.
        large_steps, large_batch: then on those of 256 px, with details mixed in.
        detail_share: of the latter steps, on pieces of larger pictures that are told so, with little noise only: what
            a second pass at 512 or 1024 px asks for.
    """

    small_steps: int
    small_batch: int
    large_steps: int
    large_batch: int
    detail_share: float = 0.15

    @property
    def steps(self) -> int:
        return self.small_steps + self.large_steps


@dataclass(frozen=True)
class Told:
    """Latents of one size and what belongs to each.

    Attributes:
        latents: BCHW, float16.
        seeds: of the scenes.
        sizes: B x 6, original height and width, top and left of the crop, target height and width, in pixels.
    """

    latents: Any
    seeds: Sequence[int]
    sizes: Any


class Painter(nn.Module):
    """UNet and text encoders as one network, for one optimizer and one average."""

    def __init__(self, tokenizers: tuple[Any, Any]) -> None:
        super().__init__()
        self.unet = networks.unet()
        self.text_encoder, self.text_encoder_2 = networks.text_encoders(tokenizers[0])
        self._tokenizers = tokenizers
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def embedded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Text as the UNet reads it, BLC and BC: the last but one layers side by side, and the second's projection."""
        hidden = []
        pooled: Tensor | None = None
        for tokenizer, encoder in zip(self._tokenizers, (self.text_encoder, self.text_encoder_2), strict=True):
            tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=77, return_tensors="pt")
            output = encoder(tokens.input_ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = output[0]
        if pooled is None:
            raise AssertionError("there are two text encoders")
        return torch.cat(hidden, dim=-1), pooled

    def forward(
        self, noisy_BCHW: Tensor, timestep_B: Tensor, texts: Sequence[str], kept_B: Tensor, sizes_B6: Tensor
    ) -> Tensor:
        """The predicted velocity; where `kept_B` is 0 the embeddings are zeros, as for a negative prompt of None."""
        text_BLC, pooled_BC = self.embedded(texts)
        told = {"text_embeds": pooled_BC * kept_B[:, None], "time_ids": sizes_B6}
        predicted: Tensor = self.unet(
            noisy_BCHW, timestep_B, text_BLC * kept_B[:, None, None], added_cond_kwargs=told
        ).sample
        return predicted


@torch.no_grad()
def encode(directory: Path, network: Any, *, longer: int, count: int, batch: int = 16) -> list[Told]:
    """Latents of all pictures of a longer side, from disk if they are there."""
    pictures, folder = directory / f"pictures-{longer}", directory / f"latents-{longer}"
    folder.mkdir(exist_ok=True)
    found = []
    for width, height in sorted(set(data.sizes(longer))):
        target = folder / f"{width}x{height}.npy"
        seeds = data.seeds_of((width, height), longer, count)
        if not target.exists() or len(np.load(target, mmap_mode="r")) < len(seeds):
            np.save(folder / "unfinished.npy", _latents(network, np.load(pictures / target.name, mmap_mode="r"), batch))
            (folder / "unfinished.npy").rename(target)
        sizes = np.tile(np.array([height, width, 0, 0, height, width], dtype=np.float32), (len(seeds), 1))
        found.append(Told(np.load(target), seeds, sizes))
    return found


def details(directory: Path, network: Any, *, scenes: int) -> Told:
    """Latents of pieces of 256 px out of pictures of 512 and 1024 px, from disk if they are there."""
    folder = data.render_details(directory, scenes=scenes)
    target = directory / "latents-details.npy"
    seeds, sizes = np.load(folder / "seeds.npy"), np.load(folder / "sizes.npy")
    if not target.exists() or len(np.load(target, mmap_mode="r")) < len(seeds):
        np.save(target, _latents(network, np.load(folder / "pictures.npy", mmap_mode="r"), 16))
    return Told(np.load(target), seeds.tolist(), sizes)


def train(
    directory: Path,
    plan: Plan,
    *,
    small: Sequence[Told],
    large: Sequence[Told],
    detail: Told | None,
    save_every: int = 100,
) -> Path:
    """Train from where the last run stopped to the plan's end.

    Returns:
        The checkpoint. `denoiser.jsonl` beside it holds step, loss (mean of 50 steps) and CPU seconds.
    """
    torch.manual_seed(1)
    painter = Painter(networks.tokenizers())
    optimizer = torch.optim.AdamW(painter.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    average = Average(painter, 0.998)
    path = directory / "denoiser.safetensors"
    done, spent_s = load(path, network=painter, average=average, optimizer=optimizer)
    clock = Clock(spent_s)
    signal_T, noise_T = _levels()
    losses = []
    for step in range(done, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * max(0.02, 1 - step / plan.steps)
        lot = Random(f"step {step}")
        if step < plan.small_steps:
            told, batch = _choice(small, lot), plan.small_batch
        elif detail is not None and lot.random() < plan.detail_share:
            told, batch = detail, plan.large_batch
        else:
            told, batch = _choice(large, lot), plan.large_batch
        loss = _loss(painter, told, batch, lot, signal_T, noise_T, last_timestep=400 if told is detail else 1000)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(painter.parameters(), 1.0)
        optimizer.step()
        average.follow(painter, step)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            record = {"step": step + 1, "loss": round(sum(losses) / len(losses), 5), "cpu_s": round(clock.cpu_s, 1)}
            with (directory / "denoiser.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            losses = []
        if (step + 1) % save_every == 0 or step + 1 == plan.steps:
            save(path, step=step + 1, cpu_s=clock.cpu_s, network=painter, average=average, optimizer=optimizer)
    return path


def trained(directory: Path) -> Painter:
    """The averaged UNet and text encoders."""
    painter = Painter(networks.tokenizers())
    average = Average(painter, 0.0)
    load_average(directory / "denoiser.safetensors", average)
    painter.load_state_dict(average.weights)
    return painter.eval().requires_grad_(False)


def _loss(
    painter: Painter, told: Told, batch: int, lot: Random, signal_T: Tensor, noise_T: Tensor, *, last_timestep: int
) -> Tensor:
    """Squared error of the velocity signal * noise - spread * latent (Salimans and Ho 2022, appendix D)."""
    chosen = [lot.randrange(len(told.seeds)) for _ in range(batch)]
    latents = torch.from_numpy(told.latents[chosen]).float()
    generator = torch.Generator().manual_seed(lot.getrandbits(40))
    noise = torch.randn(latents.shape, generator=generator)
    # One from each share of the range: fewer batches that happen to be all easy.
    shares = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    timesteps = (shares * last_timestep).long()
    signal, spread = signal_T[timesteps][:, None, None, None], noise_T[timesteps][:, None, None, None]
    noisy, velocity = signal * latents + spread * noise, signal * noise - spread * latents
    fates = [lot.random() for _ in chosen]
    texts = [
        "" if NO_PROMPT <= fate < NO_PROMPT + EMPTY_PROMPT else caption(drawn(told.seeds[index]), lot)
        for index, fate in zip(chosen, fates, strict=True)
    ]
    kept = torch.tensor([float(fate >= NO_PROMPT) for fate in fates])
    sizes = torch.from_numpy(told.sizes[chosen])
    with torch.autocast("cpu", torch.bfloat16):
        predicted = painter(noisy, timesteps, texts, kept, sizes)
    return functional.mse_loss(predicted.float(), velocity)


def _levels() -> tuple[Tensor, Tensor]:
    """Share of signal and of noise at every timestep."""
    cumulated_T = networks.noise_schedule().alphas_cumprod
    return cumulated_T.sqrt(), (1 - cumulated_T).sqrt()


def _choice(sets: Sequence[Told], lot: Random) -> Told:
    return lot.choices(sets, weights=[len(told.seeds) for told in sets])[0]


@torch.no_grad()
def _latents(network: Any, pictures: Any, batch: int) -> Any:
    parts = []
    for start in range(0, len(pictures), batch):
        with torch.autocast("cpu", torch.bfloat16):
            mean = network.encode(as_input(pictures[start : start + batch])).latent_dist.mean
        parts.append(mean.float().numpy().astype(np.float16))
    return np.concatenate(parts)
