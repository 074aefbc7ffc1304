"""Figures that do not depend on the machine: exactness, GroupNorm in half precision, arithmetic and traffic."""

import math
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine import networks
from benchmarks.engine.peers import no_messages
from distri.layers import traffic
from distri.layers.conditions import Conditions
from distri.layers.norm import merged_moments, moments, normalised
from distri.layers.unet import SplitUNet, patches_of
from distri.ranks import mesh, p2p
from distri.ranks.mesh import Axis, AxisName
from distri.ranks.patches import MOST_WORK, Patches
from distri.ranks.phase import EXACT
from tests.distri import exactness
from tests.distri.networks import relative
from tests.distri.pool import Ranks

# Width and height in pixels: one beside which peers fail, and those of DistriFusion's table.
LARGE = [(1040, 1040), (832, 1216)]
PLANNED = [(1024, 1024), (2048, 2048), (3840, 3840), (1040, 1040), (832, 1216), (1920, 1080), (2480, 3504)]
COUNTS = (1, 2, 3, 4, 5, 8)
GIGA = 1e9


def exact(model_dir: Path) -> dict[str, Any]:
    """Largest errors per number of ranks, over sizes and batches of 1 and 2."""
    cases = [(*size, batch) for size in (*exactness.SIZES, *LARGE) for batch in (1, 2)]
    plain = [exactness.wanted_evaluation(*case) for case in cases]
    batches = [exactness.images(*size, batch) for size in exactness.SIZES for batch in (1, 2)]
    rendered = {size: exactness.wanted_pictures(model_dir, exactness.images(*size, 2)) for size in exactness.SIZES}
    rows = []
    for count, layout in exactness.LAYOUTS.items():
        pool = Ranks(count)
        try:
            answers = pool.run(exactness.found_evaluations, cases, timeout_s=1800)
            pictures = pool.run(exactness.found_pictures, model_dir, layout, batches, timeout_s=1800)
        finally:
            pool.stop()
        errors = [
            [
                relative(exactness.joined([answer[place][kind] for answer in answers], width, height), plain[place])
                for place, (width, height, _) in enumerate(cases)
            ]
            for kind in (0, 1)
        ]
        renders = [
            exactness.picture_error([answer[place][number] for answer in pictures], wanted, width, height)
            for place, (width, height) in enumerate(size for size in exactness.SIZES for _ in (1, 2))
            for number, wanted in enumerate(rendered[width, height][: len(batches[place])])
        ]
        rows.append(
            {
                "ranks": count,
                "layout_of_renders": layout,
                "one_evaluation": max(errors[0]),
                "displaced_unchanged": max(errors[1]),
                "six_steps_and_decode": max(renders),
            }
        )
        print(rows[-1], flush=True)
    return {
        "sizes_of_evaluations": [*exactness.SIZES, *LARGE],
        "sizes_of_renders": exactness.SIZES,
        "batches": [1, 2],
        "bound_of_an_evaluation": exactness.ONE_EVALUATION,
        "bound_of_six_steps": exactness.SIX_STEPS,
        "rows": rows,
    }


def half_norm() -> dict[str, float]:
    """Largest error of a split GroupNorm at mean / deviation = 60 against float64, by dtype."""
    errors = {}
    for dtype in (torch.float16, torch.bfloat16):
        torch.manual_seed(0)
        norm = torch.nn.GroupNorm(32, 128)
        x = (60 + torch.randn(2, 128, 64, 64)).to(dtype)
        parts = [moments(part, 32) for part in torch.tensor_split(x, [16, 32, 52], dim=2)]
        with torch.inference_mode():
            found = normalised(x, merged_moments(parts, [16, 16, 20, 12]), norm)
        errors[str(dtype).removeprefix("torch.")] = relative(
            found.double(), torch.nn.functional.group_norm(x.double(), 32)
        )
    return errors


def arithmetic() -> list[dict[str, Any]]:
    """Floating-point operations of the busiest of N ranks in one evaluation of SDXL's UNet, beside the whole's.

    `share` is that times N: 1 is perfect. `rows` is the same without handing tokens on, `moved` the share of the
    deepest level's tokens that are.
    """
    unet = networks.sdxl_unet()
    rows = []
    for width, height in PLANNED:
        whole = _operations(unet, patches_of(unet, height // 8, width // 8, 1), 0, math.inf)
        for count in COUNTS[1:]:
            patches = patches_of(unet, height // 8, width // 8, count)
            deepest = patches.at(2)
            alike = {
                (patches.rows(index), deepest.tokens[index], index in (0, count - 1)): index for index in range(count)
            }
            shares = [_operations(unet, patches, index, MOST_WORK) * count / whole for index in alike.values()]
            most_rows = max(range(count), key=patches.rows)
            rows.append(
                {
                    "width": width,
                    "height": height,
                    "ranks": count,
                    "whole_tera": round(whole / 1e12, 3),
                    "share": round(max(shares), 4),
                    "rows": round(_operations(unet, patches, most_rows, math.inf) * count / whole, 4),
                    "moved": round(sum(move.tokens for move in deepest.moves) / sum(deepest.areas), 4),
                }
            )
            print(rows[-1], flush=True)
    return rows


def _operations(unet: Any, patches: Patches, index: int, most_work: float) -> int:
    """Counted on the meta device, on which a rank among N can be run without its peers."""
    axis = Axis(AxisName.PATCH, tuple(range(patches.count)), index, None, mesh.TrafficCounter())
    conditions = Conditions(*(torch.empty(shape, device="meta") for shape in ((1, 77, 2048), (1, 1280), (1, 6))))
    latent = torch.empty((1, 4, patches.height, patches.width), device="meta")
    owner = SplitUNet(unet, most_work=most_work)
    with torch.inference_mode(), mock.patch.object(p2p, "post", no_messages):
        owner.begin(conditions, axis, patches.height, patches.width)
        owner(latent, torch.tensor(1.0, device="meta"), EXACT)  # keys and values of the text: once per image
        with FlopCounterMode(display=False) as counter:
            owner(latent, torch.tensor(1.0, device="meta"), EXACT)
    owner.remove()
    return int(counter.get_total_flops())


# GB and elements received per device and step from DistriFusion's paper and code; None where they give no figure.
PEER_BUFFER_GB = {(3840, "cfg 2 x patch 4"): 6.0, (3840, "cfg 1 x patch 8"): 12.3}
PEER_RECEIVED_G = {(1024, "cfg 1 x patch 8"): 0.42, (2048, "cfg 1 x patch 8"): 1.5, (3840, "cfg 1 x patch 8"): 5.4}


def traffic_table() -> list[dict[str, Any]]:
    """fp16 traffic and buffers of a middle rank for one guided image, from the shapes of SDXL's UNet."""
    unet = networks.sdxl_unet()
    rows = []
    for pixels in (1024, 2048, 3840):
        for cfg, patch in ((2, 1), (1, 2), (2, 2), (1, 4), (2, 4), (1, 8)):
            patches = patches_of(unet, pixels // 8, pixels // 8, patch)
            index = min(1, patch - 1)
            own = traffic.of_unet(unet, patches, index, batch=3 - cfg, element_bytes=2)
            name = f"cfg {cfg} x patch {patch}"
            rows.append(
                {
                    "pixels": pixels,
                    "layout": name,
                    "received_giga_elements": round(own.received / 2 / GIGA, 3),
                    "distrifusion_received_giga_elements": PEER_RECEIVED_G.get((pixels, name)),
                    "sent_gb": round(own.sent / GIGA, 3),
                    "sent_residual_gb": round(own.sent_residual / GIGA, 3),
                    "waited_kv_gb": round((own.sent_displaced_kv - own.late_kv) / GIGA, 3),
                    "halo_sent_mb": round(own.halo_sent / 1e6, 2),
                    "prediction_mb": round(
                        traffic.prediction_bytes(patches, index, batch=3 - cfg, receivers=cfg * patch - 1) / 1e6, 3
                    ),
                    "buffers_gb": round(own.buffers / GIGA, 3),
                    "distrifusion_buffers_gb": PEER_BUFFER_GB.get((pixels, name)),
                }
            )
    return rows


def halos() -> dict[str, int]:
    """Bytes of halos that a rank in the middle sends at 3840 pixels, fp16, by number of ranks."""
    unet = networks.sdxl_unet()
    return {
        str(count): traffic.of_unet(unet, patches_of(unet, 480, 480, count), 1, batch=1, element_bytes=2).halo_sent
        for count in (3, 4, 5, 8)
    }
