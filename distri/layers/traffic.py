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
        sent_displaced_kv: per evaluation of which keys and values alone are displaced, but for those nearest the end.
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
    halos, rest, late, fresh = (_Sums() for _ in range(4))
    first = nearest_output(unet)
    saved = kept = 0
    for site, module in evaluated(unet):
        halvings = halvings_of(unet, site)
        here, windows = patches.at(halvings), windows_of(patches, window, halvings, site)
        kv = fresh if first and site.startswith(first) else late
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1:
            entering = patches.at(halvings_before_conv(unet, site))
            across = entering.width if entering.dim == ROWS else entering.height
            row = batch * module.in_channels * across * element_bytes
            # A stride of 2 needs the row before alone: what it gets from above, its neighbour below gets from it.
            above, below = int(index > 0), int(index < patches.count - 1)
            halos.add(row, *((below, above) if module.stride[0] == 2 else (neighbours, neighbours)))
        elif isinstance(module, nn.GroupNorm) and patches.count > 1:
            # Its own moments have one place, whoever receives them.
            own = 2 * batch * module.num_groups * moment_bytes
            rest.add(own, others, others, held=patches.count)
        elif type(module).__name__ == "Transformer2DModel":
            # What one rank of a move hands on, the other returns, at the width of the layers around.
            for move in here.moves:
                if index in (move.origin, move.destination):
                    rest.add(batch * move.tokens * module.in_channels * element_bytes, 1, 1)
        elif type(module).__name__ != "Attention" or module.is_cross_attention or patches.count == 1:
            continue
        elif windows is not None:
            row = batch * windows.across * module.inner_kv_dim * element_bytes
            for peer in range(patches.count):
                if peer != index:
                    kv.add(row * windows.shared_rows(index, peer), 2, 0)
                    kv.add(row * windows.shared_rows(peer, index), 0, 2)
        else:
            # Every rank's keys; its values are as many bytes.
            each = [batch * count * module.inner_kv_dim * element_bytes for count in here.tokens]
            for peer, size in enumerate(each):
                kv.add(size, *((2 * others, 0) if peer == index else (0, 2)), held=2)
            coded = sent_bytes(module.inner_kv_dim, here.tokens[index], batch=batch, receivers=others)
            saved += 2 * others * each[index] - coded
            kept += 2 * sum(each)
    parts = (halos, rest, late, fresh)
    whole = sum(part.sent for part in parts)
    return Traffic(
        sent=whole,
        received=sum(part.received for part in parts),
        sent_displaced=sum(part.filled for part in parts),
        halo_sent=halos.sent,
        buffers=sum(part.held for part in parts),
        sent_residual=whole - saved,
        kept_residual=kept,
        sent_displaced_kv=whole - late.sent + late.filled,
        late_kv=late.filled,
        buffers_kv=late.held,
    )


@dataclass
class _Sums:
    """Bytes of some layers: sent, received, sent with every tensor filled up to a bucket's alignment, and held."""

    sent: int = 0
    received: int = 0
    filled: int = 0
    held: int = 0

    def add(self, size: int, out: int, into: int, *, held: int | None = None) -> None:
        """A tensor that leaves and arrives so often, and has as many places as both if nothing else is said."""
        self.sent += out * size
        self.received += into * size
        self.filled += out * aligned(size)
        self.held += (out + into if held is None else held) * aligned(size)


def prediction_bytes(patches: Patches, index: int, *, batch: int, receivers: int) -> int:
    """Sent at the end of an evaluation, whatever its phase: this rank's noise prediction, float32, four channels."""
    return receivers * batch * 4 * patches.area(index) * torch.float32.itemsize


def aligned(size_bytes: int) -> int:
    """Room that a tensor takes in a bucket."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
