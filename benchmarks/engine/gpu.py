"""`python -m benchmarks.engine.gpu`: one rank of N on one GPU, its exchange switched off, SDXL at full size.

Random weights have the same speed. What one rank computes is timed; what it would receive is known from shapes. Time of
a step on N GPUs is projected as the longer of the two, since a displaced exchange has the whole evaluation to arrive.
Before that, `parity`: two ranks on the one GPU against the plain networks in half precision. `--small` runs small
networks on a CPU instead, to see that the command works.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.engine import networks, parity
from benchmarks.engine.figures import no_messages
from distri.layers import traffic
from distri.layers.unet import Conditions, SplitUNet, patches_of
from distri.layers.vae import SplitVAE
from distri.ranks import p2p
from distri.ranks.mesh import Axis, AxisName, TrafficCounter
from distri.ranks.patches import Patches, split
from distri.ranks.phase import EXACT, Evaluation, Phase

LAYOUTS = ((1, 1), (1, 2), (2, 2), (1, 8), (2, 4))  # cfg x patch
PIXELS = (1024, 2048, 3840)
DISPLACED = Evaluation(Phase.DISPLACED, publish=True)


def main() -> None:
    """Measure every size and layout, and write benchmarks/results/gpu.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--small", action="store_true", help="a small network on the CPU, at 512 pixels")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--link-gb-s", type=float, default=300.0, help="what a GPU receives, GB a second")
    arguments = parser.parse_args()
    if not arguments.small and not torch.cuda.is_available():
        parser.error("there is no GPU here; --small tries the command on a CPU")
    device = torch.device("cpu" if arguments.small else "cuda")
    dtype = torch.float32 if arguments.small else torch.float16
    # First, while this process holds nothing on the device; float32 networks at full size are 10 GB a rank.
    same = parity.measured(small=arguments.small)
    unet = networks.speed_unet() if arguments.small else networks.initialised(networks.sdxl_unet(), device).to(dtype)
    vae = networks.small_vae() if arguments.small else networks.initialised(networks.sdxl_vae(), device)
    rows: list[dict[str, Any]] = []
    for pixels in (512,) if arguments.small else PIXELS:
        for cfg, patch in LAYOUTS:
            row = {"pixels": pixels, "cfg": cfg, "patch": patch}
            try:
                row |= _denoise(unet, pixels, (cfg, patch), arguments.repeats, arguments.link_gb_s)
                row |= _decode(vae, pixels, cfg * patch, arguments.repeats)
            except torch.OutOfMemoryError:
                row["out_of_memory"] = True
            rows.append(row)
            print(row, flush=True)
    name = "cpu, small network" if arguments.small else torch.cuda.get_device_name()
    results = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": name,
        "torch": torch.__version__,
        "dtype": str(dtype),
        "link_gb_s": arguments.link_gb_s,
        "parity": same,
        "rows": rows,
    }
    if not arguments.small:
        (Path(__file__).parents[1] / "results" / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")


def _denoise(unet: Any, pixels: int, layout: tuple[int, int], repeats: int, link_gb_s: float) -> dict[str, Any]:
    """One guided evaluation of the busiest rank."""
    cfg, patch = layout
    patches, batch = patches_of(unet, pixels // 8, pixels // 8, patch), 2 // cfg
    axis, index = _busiest(patches)
    device, dtype = next(unet.parameters()).device, unet.dtype
    text_width = unet.config.cross_attention_dim
    pooled_width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    conditions = Conditions(
        torch.randn(batch, 77, text_width, device=device, dtype=dtype),
        torch.randn(batch, pooled_width, device=device, dtype=dtype),
        torch.full((batch, 6), float(pixels), device=device),
    )
    latent = torch.randn(batch, 4, patches.height, patches.width, device=device, dtype=dtype)
    split_unet, now = SplitUNet(unet), torch.tensor(501.0, device=device)
    with torch.inference_mode(), mock.patch.object(p2p, "post", no_messages):
        split_unet.begin(conditions, axis, patches.height, patches.width)
        evaluation = EXACT
        if patch > 1:
            split_unet(latent, now, Evaluation(Phase.SYNCHRONOUS, publish=True))
            evaluation = DISPLACED
        seconds, memory_bytes = _timed(lambda: split_unet(latent, now, evaluation), repeats, device)
        with _compiled(unet):
            compiled_s, _ = _timed(lambda: split_unet(latent, now, evaluation), repeats, device)
    buffers = split_unet.exchanges.buffer_bytes
    split_unet.remove()
    own = traffic.of_unet(unet, patches, index, batch=batch, element_bytes=dtype.itemsize)
    exchange_s = own.received / (link_gb_s * 1e9)
    return {
        "evaluation_ms": round(1000 * seconds, 2),
        "compiled_ms": round(1000 * compiled_s, 2),
        "exchange_ms": round(1000 * exchange_s, 2),
        "projected_ms": round(1000 * max(seconds, exchange_s), 2),
        "denoise_memory_gb": round(memory_bytes / 1e9, 2),
        "buffers_gb": round(buffers / 1e9, 3),
    }


@contextmanager
def _compiled(unet: Any) -> Iterator[None]:
    """With feed-forwards compiled, the largest parts of a UNet that send nothing: what regional compile can bring."""
    parts = [module for module in unet.modules() if type(module).__name__ == "FeedForward"]
    for part in parts:
        part.compile()
    try:
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None  # there is no public way to undo it


def _decode(vae: Any, pixels: int, ranks: int, repeats: int) -> dict[str, Any]:
    """The decode of the busiest of all ranks of a replica."""
    axis, _ = _busiest(split(pixels // 8, pixels // 8, ranks, unit=1))
    device = next(vae.parameters()).device
    latent = torch.randn(1, 4, pixels // 8, pixels // 8, device=device)
    split_vae = SplitVAE(vae)
    with torch.inference_mode(), mock.patch.object(p2p, "post", no_messages):
        seconds, memory_bytes = _timed(lambda: split_vae.decode(latent, axis), max(1, repeats // 3), device)
    split_vae.remove()
    return {"decode_ms": round(1000 * seconds, 2), "decode_memory_gb": round(memory_bytes / 1e9, 2)}


def _busiest(patches: Patches) -> tuple[Axis, int]:
    index = max(range(patches.count), key=patches.rows)
    return Axis(AxisName.PATCH, tuple(range(patches.count)), index, None, TrafficCounter()), index


def _timed(work: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, int]:
    """Median of repeats after two that are not counted, and the most memory held meanwhile."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for turn in range(2 + repeats):
        began = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        if turn >= 2:
            times.append(time.perf_counter() - began)
    return statistics.median(times), torch.cuda.max_memory_allocated() if cuda else 0


if __name__ == "__main__":
    main()
