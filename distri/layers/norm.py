"""GroupNorm over an image whose patches lie on several ranks."""

# B batch, C channels, G groups, R ranks, S whatever dimensions follow the channels in this rank's patch

from collections.abc import Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from distri.layers.context import Context
from distri.layers.strip_norms import StripNorms
from distri.ranks.phase import NormMode, Phase
from distri.ranks.sites import Incoming, Outgoing


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


@cache
def _shares(pixels_R: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Each rank's share of the image; kept, since making a tensor from numbers takes as long as the merging.

    Kept for good, a few hundred bytes a shape: recordings read it where it is.
    """
    with torch.inference_mode(False):
        shares = [pixels / sum(pixels_R) for pixels in pixels_R]
        on_host = torch.tensor(shares, dtype=dtype)
        if device.type == "cuda":  # from other memory the program would wait for the copy
            on_host = on_host.pin_memory()
        return on_host.to(device, non_blocking=True)[:, None, None]


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

    def __call__(self, x_BCS: Tensor, *, added_BC: Tensor | None = None, silu: bool = False) -> Tensor:
        """This rank's patch of the output.

        Args:
            x_BCS: with one or more dimensions after the channels.
            added_BC: added to every pixel of a channel first.
            silu: whether SiLU of the output is what is wanted.
        """
        context, module = self.context, self.module
        if context.strips is not None:
            return self._of_strip(context.strips, x_BCS, added_BC, silu)
        if context.kernels.takes(x_BCS):
            return self._fused(x_BCS, added_BC, silu)
        x_BCS = _added(x_BCS, added_BC)
        if context.split:
            y_BCS = normalised(x_BCS, self._image_moments(moments(x_BCS, module.num_groups)), module)
        else:
            y_BCS = nn.GroupNorm.forward(module, x_BCS)
        return functional.silu(y_BCS) if silu else y_BCS

    def _of_strip(self, strips: StripNorms, x_BCS: Tensor, added_BC: Tensor | None, silu: bool) -> Tensor:
        """A strip's output by the moments of the whole image; raises Unmeasured if these are not known yet."""
        module, kernels = self.module, self.context.kernels
        image_2BG = strips.known.get(self.site)
        if image_2BG is None:
            own_BCS = strips.own(x_BCS)
            strips.measure(self.site, moments(_added(own_BCS, added_BC), module.num_groups), own_BCS[0, 0].numel())

        def plain() -> Tensor:
            y_BCS = normalised(_added(x_BCS, added_BC), image_2BG, module)
            return functional.silu(y_BCS) if silu else y_BCS

        if not kernels.takes(x_BCS):
            return plain()
        return kernels.scaled(x_BCS, image_2BG, module, silu=silu, added_BC=added_BC, plain=plain)

    def _fused(self, x_BCS: Tensor, added_BC: Tensor | None, silu: bool) -> Tensor:
        kernels, module, groups = self.context.kernels, self.module, self.module.num_groups

        def plain_moments() -> Tensor:
            return moments(_added(x_BCS, added_BC), groups)

        own_2BG = kernels.moments(x_BCS, groups, added_BC, plain=plain_moments)
        image_2BG = self._image_moments(own_2BG) if self.context.split else own_2BG

        def plain() -> Tensor:
            y_BCS = normalised(_added(x_BCS, added_BC), image_2BG, module)
            return functional.silu(y_BCS) if silu else y_BCS

        return kernels.scaled(x_BCS, image_2BG, module, silu=silu, added_BC=added_BC, plain=plain)

    def _image_moments(self, own: Tensor) -> Tensor:
        context, axis, evaluation = self.context, self.context.axis, self.context.evaluation_of_rest
        displaced = evaluation.phase is Phase.DISPLACED
        if displaced and context.norm_mode is NormMode.LOCAL:
            return own
        outgoing = [Outgoing(axis.others, own, everyone=True)]
        incoming = [Incoming(peer, tuple(own.shape), everyone=True) for peer in axis.others]
        if context.norm_mode in (NormMode.SYNCHRONOUS, NormMode.LOCAL):
            return self._merged(own, context.exchange.swap(outgoing, incoming, like=own))
        with context.exchange.trade(self.site, outgoing, incoming, evaluation, like=own) as received:
            if not displaced or context.norm_mode is NormMode.STALE:
                return self._merged(own, received)
            (own_stale,) = context.exchange.sent(self.site)
            return self._merged(own, received, own_stale)

    def _merged(self, own: Tensor, others: Sequence[Tensor], own_stale: Tensor | None = None) -> Tensor:
        """The image's moments; corrected by this rank's drift if its own of the evaluation before are given."""
        context = self.context
        pixels, index = context.patches.at(self.halvings).areas, context.axis.index
        parts = [*others[:index], own, *others[index:]]  # all ranks add them in the same order

        def plain() -> Tensor:
            fresh_own = merged_moments(parts, pixels)
            if own_stale is None:
                return fresh_own
            stale = merged_moments([*others[:index], own_stale, *others[index:]], pixels)
            return corrected_moments(stale, own_stale, own, fallback_2BG=fresh_own)

        if not context.kernels.takes(own):
            return plain()
        return context.kernels.image_moments(parts, pixels, index, own_stale, plain=plain)


def _added(x_BCS: Tensor, added_BC: Tensor | None) -> Tensor:
    return x_BCS if added_BC is None else x_BCS + added_BC.view(*added_BC.shape, *(1,) * (x_BCS.ndim - 2))
