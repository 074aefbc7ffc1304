"""What a rank sends, receives and keeps for one evaluation, from a UNet's shapes alone.

The formulas are in docs/engine.md. Tests compare them with the bytes that `p2p` counts and `Exchange` allocates; a
network on the meta device is enough, so a size can be planned before any weight is loaded.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distri.layers.resolution import evaluated, halvings_before_conv, halvings_of, nearest_output
from distri.layers.windows import windows_of
from distri.ranks.buckets import ALIGNMENT_BYTES
from distri.ranks.patches import ROWS, Patches
from distri.ranks.residuals import sent_bytes


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends, receives and keeps, by calculation; what was really sent is `mesh.TrafficCounter`'s.

    Attributes:
        sent, received: per synchronous evaluation, without the gather of the noise prediction.
        sent_displaced: per displaced one; the same tensors, each filled up to the buckets' alignment.
        halo_sent: the part of `sent` that goes to neighbours only.
        buffers: kept from evaluation to evaluation for this shape.
        sent_residual: per evaluation whose keys and values cross as residuals; the rest is that of a synchronous one.
        kept_residual: then kept in the place of `buffers`: keys and values as the ranks have them of each other.
        sent_displaced_kv: per evaluation of which keys and values alone are displaced, but for those nearest the output.
        late_kv: the part of it that nobody waits for.
        buffers_kv: then kept in the place of `buffers`.
    """

    sent: int
    received: int
    sent_displaced: int
    halo_sent: int
    buffers: int
    sent_residual: int = 0
    kept_residual: int = 0
    sent_displaced_kv: int = 0
    late_kv: int = 0
    buffers_kv: int = 0


def of_unet(
    unet: Any, patches: Patches, index: int, *, batch: int, element_bytes: int, window: int | None = None
) -> Traffic:
    """Traffic of patch rank `index`.

    Args:
        unet: a diffusers UNet that the engine splits, or a ControlNet, whose traffic comes on top; its weights are not
            read.
        patches: how the latent is split, by `distri.layers.unet.patches_of`.
        index: place on the patch axis.
        batch: rows of the batch that this rank evaluates: 2 an image where both halves of guidance are one batch.
        element_bytes: of an activation; moments are float32 (float64 in a float64 network).
        window: side in latent elements of the windows that self-attention is computed in; None means the whole.
    """
    neighbours = (index > 0) + (index < patches.count - 1)
    others = patches.count - 1
    moment_bytes = max(4, element_bytes)
    sent = received = displaced = halo_sent = buffers = saved = kept = filled = late = buffers_kv = 0
    fresh = nearest_output(unet) if hasattr(unet, "up_blocks") else ""
    for site, module in evaluated(unet):
        halvings = halvings_of(unet, site)
        is_late = not (fresh and site.startswith(fresh))
        here, windows = patches.at(halvings), windows_of(patches, window, halvings, site)
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1:
            entering = patches.at(halvings_before_conv(unet, site))
            across = entering.width if entering.dim == ROWS else entering.height
            row = batch * module.in_channels * across * element_bytes
            # A stride of 2 needs the row before alone: what it gets from above, its neighbour below gets from it.
            above, below = int(index > 0), int(index < patches.count - 1)
            out, into = (below, above) if module.stride[0] == 2 else (neighbours, neighbours)
            halo_sent += out * row
            displaced += out * aligned(row)
            received += into * row
            buffers += (out + into) * aligned(row)
        elif isinstance(module, nn.GroupNorm) and patches.count > 1:
            own = 2 * batch * module.num_groups * moment_bytes
            sent += others * own
            displaced += others * aligned(own)
            received += others * own
            buffers += patches.count * aligned(own)
        elif type(module).__name__ == "Transformer2DModel":
            # What one rank of a move hands on, the other returns, at the width of the layers around.
            for move in here.moves:
                if index in (move.origin, move.destination):
                    size = batch * move.tokens * module.in_channels * element_bytes
                    sent += size
                    displaced += aligned(size)
                    received += size
                    buffers += 2 * aligned(size)
        elif type(module).__name__ != "Attention" or module.is_cross_attention or patches.count == 1:
            continue
        elif windows is not None:
            row = batch * windows.across * module.inner_kv_dim * element_bytes
            for peer in range(patches.count):
                if peer != index:
                    out, into = (row * windows.shared_rows(*pair) for pair in ((index, peer), (peer, index)))
                    sent += 2 * out
                    displaced += 2 * aligned(out)
                    received += 2 * into
                    buffers += 2 * (aligned(out) + aligned(into))
                    filled += is_late * 2 * (aligned(out) - out)
                    late += is_late * 2 * aligned(out)
                    buffers_kv += is_late * 2 * (aligned(out) + aligned(into))
        else:
            # Every rank's keys; its values are as many bytes.
            each = [batch * count * module.inner_kv_dim * element_bytes for count in here.tokens]
            out = 2 * others * each[index]
            sent += out
            displaced += 2 * others * aligned(each[index])
            received += 2 * (sum(each) - each[index])
            buffers += 2 * sum(aligned(size) for size in each)
            filled += is_late * (2 * others * aligned(each[index]) - out)
            late += is_late * 2 * others * aligned(each[index])
            buffers_kv += is_late * 2 * sum(aligned(size) for size in each)
            coded = sent_bytes(module.inner_kv_dim, here.tokens[index], batch=batch, receivers=others)
            saved += out - coded
            kept += 2 * sum(each)
    whole = sent + halo_sent
    return Traffic(
        sent=whole,
        received=received,
        sent_displaced=displaced,
        halo_sent=halo_sent,
        buffers=buffers,
        sent_residual=whole - saved,
        kept_residual=kept,
        sent_displaced_kv=whole + filled,
        late_kv=late,
        buffers_kv=buffers_kv,
    )


def prediction_bytes(patches: Patches, index: int, *, batch: int, receivers: int) -> int:
    """Sent at the end of an evaluation, whatever its phase: this rank's noise prediction, float32, four channels."""
    return receivers * batch * 4 * patches.area(index) * torch.float32.itemsize


def aligned(size_bytes: int) -> int:
    """Room that a tensor takes in a bucket."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
