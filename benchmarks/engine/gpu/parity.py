"""Two ranks on one device against the plain network: SDXL's UNet and VAE at full size, in half precision.

NCCL wants a GPU for every rank, so messages go through the host's memory and gloo here; all else is as on two GPUs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.engine import networks
from benchmarks.engine.gpu.bench import DISPLACED, PUBLISHING, Bench, Row
from distri.layers.conditions import Conditions
from distri.layers.unet import SplitUNet
from distri.layers.vae import SplitVAE
from distri.ranks import p2p
from distri.ranks.kept_shapes import KeptShapes, kept_bytes_of
from distri.ranks.mesh import Axis
from distri.ranks.phase import EXACT, Evaluation, Phase
from distri.ranks.recorder import Recorder
from tests.distri import on_ranks
from tests.distri.networks import relative
from tests.distri.pool import Ranks

DTYPES = (torch.float16, torch.bfloat16)
PIXELS, SMALL_PIXELS = (1024, 544), (128, 160)  # the second ones do not divide: tokens are handed on
EVALUATIONS = 5  # the third is the first that is replayed


def measure(bench: Bench) -> Iterator[Row]:
    """Largest differences relative to the largest value, the worse of both ranks, by dtype and size.

    `half` is the plain network in half precision against itself in float32, to compare the others with: `exact` and
    `displaced` are two ranks against the plain network in half precision, `decode` the same of the VAE. `replayed` is
    recordings of a displaced evaluation against eager ones, over some latents: 0 is equal bit for bit.
    """
    pool = Ranks(2, spawned=True)
    try:
        for pixels in SMALL_PIXELS if bench.small else PIXELS:
            for dtype in DTYPES:
                answers = pool.run(_on_rank, bench, pixels, dtype, timeout_s=600)
                worst = {name: float(f"{max(answer[name] for answer in answers):.2e}") for name in answers[0]}
                yield {"pixels": pixels, "dtype": str(dtype).removeprefix("torch.")} | worst
    finally:
        pool.stop()


@torch.inference_mode()
def _on_rank(bench: Bench, pixels: int, dtype: torch.dtype) -> dict[str, float]:
    device, side, axis = bench.device, pixels // 8, on_ranks.mesh().patch
    unet = networks.speed_unet() if bench.small else networks.initialised(networks.sdxl_unet(), device)
    now = torch.tensor(501.0, device=device)
    latent, conditions = bench.latent(1, pixels, torch.float32), bench.conditions(unet, 1, pixels)
    with mock.patch.object(p2p, "post", _through_the_host(p2p.post)):
        whole = _plainly(unet, latent, now, conditions)
        unet.to(dtype)
        latent, conditions = latent.to(dtype), bench.conditions(unet, 1, pixels)
        half = _plainly(unet, latent, now, conditions)
        found = {"half": relative(half.float(), whole)}
        split = SplitUNet(unet)
        patches = split.begin(conditions, axis, side, side)
        wanted = patches.cut(half, axis.index).float()
        found["exact"] = relative(split(latent, now, EXACT).float(), wanted)
        split(latent, now, PUBLISHING)
        displaced = Evaluation(Phase.DISPLACED, publish=False)
        found["displaced"] = relative(split(latent, now, displaced).float(), wanted)
        split.remove()
        eager, replayed = (_walk(bench, unet, latent, conditions, how) for how in (None, bench.recorder()))
        found["replayed"] = max(
            relative(one.float(), other.float()) for one, other in zip(replayed, eager, strict=True)
        )
        del unet, split
        vae = bench.vae(dtype)
        picture = vae.decode(latent / vae.config.scaling_factor, return_dict=False)[0]
        split_vae = SplitVAE(vae)
        rows, pixel_patches = split_vae.decode(latent, axis)
        found["decode"] = relative(rows.float(), pixel_patches.cut(picture, axis.index).float())
        split_vae.remove()
    return found


def _walk(bench: Bench, unet: Any, latent: Tensor, conditions: Conditions, recorder: Recorder | None) -> list[Tensor]:
    """A few displaced evaluations of latents that change."""
    owner = SplitUNet(unet, shapes=KeptShapes(kept_bytes_of(bench.device), recorder))
    axis, side = on_ranks.mesh().patch, latent.shape[2]
    owner.begin(conditions, axis, side, side)
    owner(latent, torch.tensor(501.0, device=bench.device), PUBLISHING)
    noises = [
        owner(latent * (1 + number / 8), torch.tensor(480.0 - 20 * number, device=bench.device), DISPLACED).clone()
        for number in range(EVALUATIONS)
    ]
    owner.remove()
    return noises


def _plainly(unet: Any, latent: Tensor, now: Tensor, conditions: Conditions) -> Tensor:
    added = {"text_embeds": conditions.pooled, "time_ids": conditions.time_ids}
    (noise,) = unet(latent, now, encoder_hidden_states=conditions.text, added_cond_kwargs=added, return_dict=False)
    return torch.as_tensor(noise)


@dataclass
class _Arrival:
    """Messages into the host's memory, copied to the device when they are there."""

    works: list[Any]
    copies: list[tuple[Tensor, Tensor]]

    def wait(self) -> None:
        for work in self.works:
            work.wait()
        for there, here in self.copies:
            there.copy_(here)


def _through_the_host(post: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def staged(axis: Axis, sends: Sequence[p2p.Message], receives: Sequence[p2p.Message]) -> list[Any]:
        leaving = [replace(message, tensor=message.tensor.cpu()) for message in sends]
        arriving = [replace(message, tensor=torch.empty_like(message.tensor, device="cpu")) for message in receives]
        works = post(axis, leaving, arriving)
        copies = [(one.tensor, other.tensor) for one, other in zip(receives, arriving, strict=True)]
        return [_Arrival(works, copies)]

    return staged
