"""Training the UNet and both text encoders together, on latents of pictures and fresh captions of their scenes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training import data, networks
from training.autoencoder import as_input
from training.checkpoint import Average, Clock, average_of, load, save, warmed_and_cooled
from training.scenes import Scene, caption, drawn, twin

NO_PROMPT, EMPTY_PROMPT = 0.08, 0.04  # shares of pictures whose text is left out, in SDXL's two ways
PEAK_RATE, SECOND_PEAK_RATE, WARMUP_STEPS = 1e-3, 7e-4, 150
TWIN_WEIGHT = 2.0  # of the error of twins' difference, which is what the words "left" and "right" make
TOGETHER = 10  # steps from one mean of the ranks to the next; checkpoints are written after one


@dataclass(frozen=True)
class Plan:
    """How long to train on what.

    Attributes:
        small_steps, small_batch: on pictures of 128 px, where composition is learnt four times as fast. A batch is one
            rank's.
        large_steps, large_batch: then on those of 256 px, with details mixed in.
        detail_share: of the latter steps, on pieces of larger pictures (their sizes say so), with little noise only:
            what a second pass at 512 or 1024 px asks for.
        noisier_from: the step from which more is learnt where noise is strong and only the words can say what is where:
            colours come early, places late. None is never.
        place_steps: after all these a second round, for which the learning rate rises and falls again: of its steps
            `twin_share` are on twins, of 128 px and 256 px in turn, the others on what went before.
    """

    small_steps: int
    small_batch: int
    large_steps: int
    large_batch: int
    detail_share: float = 0.1
    noisier_from: int | None = None
    place_steps: int = 0
    twin_share: float = 0.5

    @property
    def first_steps(self) -> int:
        return self.small_steps + self.large_steps

    @property
    def steps(self) -> int:
        return self.first_steps + self.place_steps

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.first_steps:
            return PEAK_RATE * warmed_and_cooled(step, self.first_steps, warmup=WARMUP_STEPS)
        again = warmed_and_cooled(step - self.first_steps, self.place_steps, warmup=WARMUP_STEPS)
        return SECOND_PEAK_RATE * again


@dataclass(frozen=True)
class Counts:
    """How many pictures there are of 128 px and of 256 px, and scenes: larger ones for pieces, and those of twins."""

    small: int
    large: int
    detail_scenes: int
    small_twins: int
    large_twins: int


@dataclass(frozen=True)
class LatentSet:
    """Latents of one size and what belongs to each.

    Attributes:
        latents: BCHW, float16.
        seeds: of the scenes.
        sizes: B x 6, original height and width, top and left of the crop, target height and width, in pixels.
        draw: a scene from its seed.
    """

    latents: Any
    seeds: Sequence[int]
    sizes: Any
    draw: Callable[[int], Scene] = drawn


@dataclass(frozen=True)
class Lessons:
    """All that is learnt from: pictures of 128 and of 256 px, pieces of larger ones, and twins of both sizes."""

    small: Sequence[LatentSet]
    large: Sequence[LatentSet]
    detail: LatentSet | None = None
    twins: Sequence[LatentSet] = ()


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
        added = {"text_embeds": pooled_BC * kept_B[:, None], "time_ids": sizes_B6}
        predicted: Tensor = self.unet(
            noisy_BCHW, timestep_B, text_BLC * kept_B[:, None, None], added_cond_kwargs=added
        ).sample
        return predicted


def encode_all(directory: Path, network: Any, counts: Counts) -> Lessons:
    """All latents; from disk if they are there, and then `network` may be None."""
    return Lessons(
        small=encode(directory, network, longer=128, count=counts.small),
        large=encode(directory, network, longer=256, count=counts.large),
        detail=details(directory, network, scenes=counts.detail_scenes),
        twins=(
            twins(directory, network, side=128, scenes=counts.small_twins),
            twins(directory, network, side=256, scenes=counts.large_twins),
        ),
    )


@torch.no_grad()
def encode(directory: Path, network: Any, *, longer: int, count: int, batch: int = 16) -> list[LatentSet]:
    """Latents of all pictures of a longer side, from disk if they are there."""
    pictures, folder = directory / f"pictures-{longer}", directory / f"latents-{longer}"
    folder.mkdir(exist_ok=True)
    found = []
    for width, height in sorted(set(data.sizes(longer))):
        target = folder / f"{width}x{height}.npy"
        seeds = data.seeds_of((width, height), longer, count)
        if not target.exists() or len(np.load(target, mmap_mode="r")) < len(seeds):
            _save_whole(target, _latents(network, np.load(pictures / target.name, mmap_mode="r"), batch))
        sizes = np.tile(np.array([height, width, 0, 0, height, width], dtype=np.float32), (len(seeds), 1))
        found.append(LatentSet(np.load(target), seeds, sizes))
    return found


def details(directory: Path, network: Any, *, scenes: int) -> LatentSet:
    """Latents of pieces of 256 px out of pictures of 512 and 1024 px, from disk if they are there."""
    folder = data.render_details(directory, scenes=scenes)
    target = directory / "latents-details.npy"
    seeds, sizes = np.load(folder / "seeds.npy"), np.load(folder / "sizes.npy")
    if not target.exists() or len(np.load(target, mmap_mode="r")) < len(seeds):
        _save_whole(target, _latents(network, np.load(folder / "pictures.npy", mmap_mode="r"), 16))
    return LatentSet(np.load(target), seeds.tolist(), sizes)


def twins(directory: Path, network: Any, *, side: int, scenes: int) -> LatentSet:
    """Latents of scenes with the light on the left and on the right, one after the other, from disk if there."""
    pictures = data.render_twins(directory, side=side, scenes=scenes)
    target = directory / f"latents-twins-{side}.npy"
    if not target.exists() or len(np.load(target, mmap_mode="r")) < 2 * scenes:
        _save_whole(target, _latents(network, np.load(pictures, mmap_mode="r"), 16))
    sizes = np.tile(np.array([side, side, 0, 0, side, side], dtype=np.float32), (2 * scenes, 1))
    return LatentSet(np.load(target), range(2 * scenes), sizes, draw=twin)


def train(directory: Path, plan: Plan, lessons: Lessons, *, save_every: int = 100) -> Path:
    """Train from where the last run stopped to the plan's end.

    In a process group each rank has its own batches, and every `TOGETHER` steps all take the mean of their weights and
    moments (Stich 2019), which costs a tenth of averaging every step's gradients.

    Returns:
        The checkpoint. `denoiser.jsonl` beside it holds step, loss (mean of 50 steps) and CPU seconds.
    """
    torch.manual_seed(1)
    painter = Painter(networks.tokenizers())
    optimizer = torch.optim.AdamW(painter.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    average = Average(painter, 0.998)
    path = directory / "denoiser.safetensors"
    done, spent_s = load(path, network=painter, average=average, optimizer=optimizer)
    clock = Clock(spent_s)
    signal_T, noise_T = _levels()
    losses = []
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    for step in range(done, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        lot = Random(f"step {step} rank {rank}")
        loss = _loss(painter, _lesson(plan, lessons, step, lot), lot, signal_T, noise_T)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(painter.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % TOGETHER == 0:
            _average_over_ranks(painter, optimizer)
        average.follow(painter, step)
        losses.append(loss.item())
        if (step + 1) % 50 == 0 and rank == 0:
            record = {"step": step + 1, "loss": round(sum(losses) / len(losses), 5), "cpu_s": round(clock.cpu_s, 1)}
            with (directory / "denoiser.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            losses = []
        if rank == 0 and ((step + 1) % save_every == 0 or step + 1 == plan.steps):
            save(path, step=step + 1, cpu_s=clock.cpu_s, network=painter, average=average, optimizer=optimizer)
    return path


def trained(directory: Path) -> Painter:
    """The averaged UNet and text encoders."""
    painter = Painter(networks.tokenizers())
    painter.load_state_dict(average_of(directory / "denoiser.safetensors"))
    return painter.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Lesson:
    """What one batch is drawn from.

    Attributes:
        last_timestep, noisier: timesteps are drawn evenly up to the last, or as often as they are late.
        paired: whether it holds twins side by side, with one noise and one sentence but for the place.
    """

    latent_set: LatentSet
    batch: int
    last_timestep: int = 1000
    noisier: bool = False
    paired: bool = False


def _lesson(plan: Plan, lessons: Lessons, step: int, lot: Random) -> _Lesson:
    noisier = plan.noisier_from is not None and step >= plan.noisier_from
    if step < plan.small_steps:
        return _Lesson(_choice(lessons.small, lot), plan.small_batch, noisier=noisier)
    if step >= plan.first_steps and lot.random() < plan.twin_share:
        size = step % len(lessons.twins)
        return _Lesson(lessons.twins[size], (plan.small_batch, plan.large_batch)[size], noisier=noisier, paired=True)
    if lessons.detail is not None and lot.random() < plan.detail_share:
        return _Lesson(lessons.detail, plan.large_batch, last_timestep=400)
    return _Lesson(_choice(lessons.large, lot), plan.large_batch, noisier=noisier)


def _loss(painter: Painter, lesson: _Lesson, lot: Random, signal_T: Tensor, noise_T: Tensor) -> Tensor:
    """Squared error of the velocity signal * noise - spread * latent (Salimans and Ho 2022, appendix D).

    Of twins also that of their difference: what they share is most of a picture, and hides it.
    """
    latent_set, alike = lesson.latent_set, 2 if lesson.paired else 1
    drawn_from, batch = len(latent_set.seeds) // alike, lesson.batch // alike
    first = [alike * lot.randrange(drawn_from) for _ in range(batch)]
    chosen = [number + k for number in first for k in range(alike)]
    latents = torch.from_numpy(latent_set.latents[chosen]).float()
    generator = torch.Generator().manual_seed(lot.getrandbits(40))
    noise = torch.randn(batch, *latents.shape[1:], generator=generator).repeat_interleave(alike, 0)
    # One from each share of the range: fewer batches that happen to be all easy.
    shares = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    late = shares.sqrt() if lesson.noisier else shares
    timesteps = (late * lesson.last_timestep).long().repeat_interleave(alike)
    signal, spread = signal_T[timesteps][:, None, None, None], noise_T[timesteps][:, None, None, None]
    noisy, velocity = signal * latents + spread * noise, signal * noise - spread * latents
    fates = [lot.random() for _ in first]
    texts = []
    for number, fate in zip(first, fates, strict=True):
        words = lot.getstate()
        for seed in latent_set.seeds[number : number + alike]:
            lot.setstate(words)  # twins' sentences differ in the place alone
            texts.append("" if NO_PROMPT <= fate < NO_PROMPT + EMPTY_PROMPT else caption(latent_set.draw(seed), lot))
    kept = torch.tensor([float(fate >= NO_PROMPT) for fate in fates]).repeat_interleave(alike)
    sizes = torch.from_numpy(latent_set.sizes[chosen])
    # On a CPU the backward pass of fused attention takes a fifth of the step for these few pixels; products do not.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        predicted = painter(noisy, timesteps, texts, kept, sizes)
    error = predicted.float() - velocity
    loss: Tensor = error.square().mean()
    if lesson.paired:
        loss = loss + TWIN_WEIGHT * (error[::2] - error[1::2]).square().mean()
    return loss


@torch.no_grad()
def _average_over_ranks(painter: Painter, optimizer: torch.optim.Optimizer) -> None:
    if not distributed.is_initialized():
        return
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    tensors = [*painter.parameters(), *moments]
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(whole)
    whole /= distributed.get_world_size()
    parts = torch.split_with_sizes(whole, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def _levels() -> tuple[Tensor, Tensor]:
    """Share of signal and of noise at every timestep."""
    cumulated_T = networks.noise_schedule().alphas_cumprod
    return cumulated_T.sqrt(), (1 - cumulated_T).sqrt()


def _choice(sets: Sequence[LatentSet], lot: Random) -> LatentSet:
    return lot.choices(sets, weights=[len(one.seeds) for one in sets])[0]


def _save_whole(target: Path, array: Any) -> None:
    """The file gets its name only when it is whole."""
    unfinished = target.with_name("unfinished.npy")
    np.save(unfinished, array)
    unfinished.rename(target)


@torch.no_grad()
def _latents(network: Any, pictures: Any, batch: int) -> Any:
    parts = []
    for start in range(0, len(pictures), batch):
        with torch.autocast("cpu", torch.bfloat16):
            mean = network.encode(as_input(pictures[start : start + batch])).latent_dist.mean
        parts.append(mean.float().numpy().astype(np.float16))
    return np.concatenate(parts)


def main() -> None:
    """`torchrun --nproc-per-node 2 -m training.denoiser WORK COUNTS PLAN`: `train` by ranks, on what is encoded."""
    work, counts, plan = Path(sys.argv[1]), Counts(**json.loads(sys.argv[2])), Plan(**json.loads(sys.argv[3]))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    train(work, plan, encode_all(work, None, counts))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
