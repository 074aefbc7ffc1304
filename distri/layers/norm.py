"""GroupNorm over an image whose patches lie on several ranks."""

# B batch, C channels, G groups, R ranks, S whatever dimensions follow the channels in this rank's patch

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from distri.layers.context import Context
from distri.ranks.exchange import Incoming, Outgoing
from distri.ranks.phase import NormMode


def moments(x_BCS: Tensor, groups: int) -> Tensor:
    """Mean and biased variance of each group, stacked: shape (2, B, G), float32 (float64 for a float64 input)."""
    batch, channels = x_BCS.shape[:2]
    exact = x_BCS.to(torch.promote_types(x_BCS.dtype, torch.float32))
    if exact.device.type == "cpu":
        # The statistics of PyTorch's own kernel: var_mean on a CPU took ten times as long (1.1 ms against 0.1 ms for
        # half of a 2x128x32x32 input, one thread), an eighth of a whole evaluation.
        pixels = exact[0, 0].numel()
        _, mean_BG, rstd_BG = torch.native_group_norm(
            exact.contiguous(), None, None, batch, channels, pixels, groups, 0.0
        )
        return torch.stack([mean_BG, rstd_BG**-2])
    variance_BG, mean_BG = torch.var_mean(exact.reshape(batch, groups, -1), dim=-1, correction=0)
    return torch.stack([mean_BG, variance_BG])


def merged_moments(moments_R2BG: Sequence[Tensor], pixels_R: Sequence[int]) -> Tensor:
    """Mean and biased variance of the whole image from those of its patches, stacked: shape (2, B, G).

    Args:
        moments_R2BG: each rank's own.
        pixels_R: how many elements each rank's statistics cover; only the proportions matter.

    No communication. Merging deviations instead of subtracting E[x]^2 keeps the result right when the mean is large
    beside the deviation (Chan, Golub and LeVeque 1983).
    """
    stacked_R2BG = torch.stack(list(moments_R2BG))
    share_R11 = _shares(tuple(pixels_R), stacked_R2BG.dtype, stacked_R2BG.device)
    mean_RBG, variance_RBG = stacked_R2BG.unbind(1)
    # Deviations are taken from the first rank's mean: a mean of means rounds like the means themselves.
    shift_RBG = mean_RBG - mean_RBG[0]
    shift_BG = (share_R11 * shift_RBG).sum(0)
    variance_BG = (share_R11 * (variance_RBG + (shift_RBG - shift_BG) ** 2)).sum(0)
    return torch.stack([mean_RBG[0] + shift_BG, variance_BG])


@lru_cache(maxsize=256)
def _shares(pixels_R: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Each rank's share of the image; kept, since making a tensor from numbers takes as long as the merging."""
    with torch.inference_mode(False):
        shares = [pixels / sum(pixels_R) for pixels in pixels_R]
        return torch.tensor(shares, dtype=dtype, device=device)[:, None, None]


def corrected_moments(stale_2BG: Tensor, own_stale_2BG: Tensor, own_2BG: Tensor, fallback_2BG: Tensor) -> Tensor:
    """The whole image's moments now, guessing that it has drifted as this rank's patch has.

    DistriFusion (section 4.3) moves the image's E[x] and E[x^2] by this patch's drift of the same. Here mean and
    variance themselves are moved: nothing large cancels, and a shift that all patches share is followed exactly, which
    moved powers do only where the patch's mean is the image's.

    Args:
        stale_2BG: of the whole image in the evaluation before.
        own_stale_2BG, own_2BG: of this patch then and now.
        fallback_2BG: taken by the groups whose corrected variance would not be positive.
    """
    drift_BG = own_2BG[0] - own_stale_2BG[0]
    variance_BG = stale_2BG[1] + (own_2BG[1] - own_stale_2BG[1])
    corrected_2BG = torch.stack([stale_2BG[0] + drift_BG, variance_BG])
    return torch.where(variance_BG > 0, corrected_2BG, fallback_2BG)


def normalised(x_BCS: Tensor, moments_2BG: Tensor, module: nn.GroupNorm) -> Tensor:
    """`x` normalised by given moments and scaled by the module's weights, computed in the moments' dtype."""
    mean_BG, variance_BG = moments_2BG.unbind(0)
    batch, channels = x_BCS.shape[:2]
    per_group = channels // module.num_groups
    scale_BC = torch.rsqrt(variance_BG + module.eps).repeat_interleave(per_group, dim=1)
    mean_BC = mean_BG.repeat_interleave(per_group, dim=1)
    if module.affine:
        scale_BC = scale_BC * module.weight
        shift_BC = module.bias - mean_BC * scale_BC
    else:
        shift_BC = -mean_BC * scale_BC
    if x_BCS.device.type == "cpu" and x_BCS.dtype == scale_BC.dtype:
        # One scale and shift a channel is what batch normalisation does with its moments already known, and its kernel
        # on a CPU takes a quarter of addcmul's time (31 us against 114 us for 2x64x32x64, one thread).
        zero, one = _zero_one(batch * channels, scale_BC.dtype)
        flat = x_BCS.reshape(1, batch * channels, -1)
        scaled = torch.batch_norm(flat, scale_BC.flatten(), shift_BC.flatten(), zero, one, False, 0.0, 0.0, False)
        return scaled.view(x_BCS.shape)
    spread = (batch, channels) + (1,) * (x_BCS.ndim - 2)
    y_BCS = torch.addcmul(shift_BC.view(spread), x_BCS.to(scale_BC.dtype), scale_BC.view(spread))
    return y_BCS.to(x_BCS.dtype)


@lru_cache(maxsize=64)
def _zero_one(channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return torch.zeros(channels, dtype=dtype), torch.ones(channels, dtype=dtype)


class PatchGroupNorm:
    """What `nn.GroupNorm` gives on the whole image, for this rank's patch of it.

    Args:
        module: owner of weight and bias.
        site: the module's name.
        context: where the evaluation stands, and the mode for the displaced phase.
        halvings: how many stride-2 layers lie before it (doublings are negative).

    Communication: 2 x B x G float32 to every other rank of the axis.
    """

    def __init__(self, module: nn.GroupNorm, site: str, context: Context, halvings: int) -> None:
        self.module = module
        self.site = site
        self.context = context
        self.halvings = halvings

    def __call__(self, x_BCS: Tensor) -> Tensor:
        """This rank's patch of the output. `x_BCS` may have one or more dimensions after the channels."""
        context = self.context
        if not context.split:
            return nn.GroupNorm.forward(self.module, x_BCS)
        return normalised(x_BCS, self._moments(moments(x_BCS, self.module.num_groups)), self.module)

    def _moments(self, own: Tensor) -> Tensor:
        context, axis = self.context, self.context.axis
        if context.displaced and context.norm_mode is NormMode.LOCAL:
            return own
        pixels = context.patches.at(self.halvings).areas
        outgoing = [Outgoing(axis.others, own, everyone=True)]
        incoming = [Incoming(peer, tuple(own.shape), everyone=True) for peer in axis.others]
        if context.norm_mode in (NormMode.SYNCHRONOUS, NormMode.LOCAL):
            return merged_moments(self._in_rank_order(own, context.exchange.swap(outgoing, incoming, like=own)), pixels)
        with context.exchange.trade(self.site, outgoing, incoming, context.evaluation, like=own) as received:
            fresh_own = merged_moments(self._in_rank_order(own, received), pixels)
            if not context.displaced or context.norm_mode is NormMode.STALE:
                return fresh_own
            (own_stale,) = context.exchange.sent(self.site)
            stale = merged_moments(self._in_rank_order(own_stale, received), pixels)
            return corrected_moments(stale, own_stale, own, fallback_2BG=fresh_own)

    def _in_rank_order(self, own: Tensor, others: Sequence[Tensor]) -> list[Tensor]:
        """Own and others' tensors in the order of the axis, so that all ranks add them in the same order."""
        index = self.context.axis.index
        return [*others[:index], own, *others[index:]]
