"""Two ranks on one device against the plain network: SDXL's UNet and VAE at full size, in half precision.

NCCL wants a GPU for every rank, so messages go through the host's memory and gloo here; all else is as on two GPUs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.engine import networks
from distri.layers.unet import Conditions, SplitUNet
from distri.layers.vae import SplitVAE
from distri.ranks import p2p
from distri.ranks.mesh import Axis
from distri.ranks.phase import EXACT, Evaluation, Phase
from tests.distri import on_ranks
from tests.distri.networks import relative
from tests.distri.pool import Ranks

DTYPES = (torch.float16, torch.bfloat16)
PIXELS, SMALL_PIXELS = (1024, 544), (256, 288)  # the second ones do not divide: tokens are handed on


def measured(*, small: bool) -> list[dict[str, Any]]:
    """Largest differences relative to the largest value, the worse of both ranks, by dtype and size.

    `half` is the plain network in half precision against itself in float32, to compare the others with: `exact` and
    `displaced` are two ranks against the plain network in half precision, `decode` the same of the VAE.

    Args:
        small: small networks on the CPU, to see that it works.
    """
    rows = []
    for pixels in SMALL_PIXELS if small else PIXELS:
        for dtype in DTYPES:
            pool = Ranks(2)
            try:
                answers = pool.run(_on_rank, pixels, str(dtype).removeprefix("torch."), small, timeout_s=600)
            finally:
                pool.stop()
            worst = {name: float(f"{max(answer[name] for answer in answers):.2e}") for name in answers[0]}
            rows.append({"pixels": pixels, "dtype": str(dtype).removeprefix("torch."), **worst})
            print(rows[-1], flush=True)
    return rows


@torch.inference_mode()
def _on_rank(pixels: int, dtype_name: str, small: bool) -> dict[str, float]:
    device, dtype = torch.device("cpu" if small else "cuda"), getattr(torch, dtype_name)
    unet = networks.speed_unet() if small else networks.initialised(networks.sdxl_unet(), device)
    vae = networks.small_vae() if small else networks.initialised(networks.sdxl_vae(), device)
    axis, side = on_ranks.mesh().patch, pixels // 8
    torch.manual_seed(3)
    latent, now = torch.randn(1, 4, side, side, device=device), torch.tensor(501.0, device=device)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    conditions = Conditions(
        torch.randn(1, 77, unet.config.cross_attention_dim, device=device),
        torch.randn(1, pooled, device=device),
        torch.full((1, 6), float(pixels), device=device),
    )
    found: dict[str, float] = {}
    with mock.patch.object(p2p, "post", _through_the_host(p2p.post)):
        whole = _plainly(unet, latent, now, conditions)
        unet.to(dtype)
        latent, conditions = (
            latent.to(dtype),
            replace(conditions, text=conditions.text.to(dtype), pooled=conditions.pooled.to(dtype)),
        )
        half = _plainly(unet, latent, now, conditions)
        found["half"] = relative(half.float(), whole)
        split = SplitUNet(unet)
        patches = split.begin(conditions, axis, side, side)
        wanted = patches.cut(half, axis.index).float()
        found["exact"] = relative(split(latent, now, EXACT).float(), wanted)
        split(latent, now, Evaluation(Phase.SYNCHRONOUS, publish=True))
        displaced = Evaluation(Phase.DISPLACED, publish=False)
        found["displaced"] = relative(split(latent, now, displaced).float(), wanted)
        split.remove()

        vae.to(dtype)
        picture = vae.decode(latent / vae.config.scaling_factor, return_dict=False)[0]
        split_vae = SplitVAE(vae)
        rows, pixel_patches = split_vae.decode(latent, axis)
        found["decode"] = relative(rows.float(), pixel_patches.cut(picture, axis.index).float())
        split_vae.remove()
    return found


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
