"""Which fused kernels this process uses: those that gave what the plain layers give, the first time they were asked.

No machine without a GPU can show what a kernel does on one, so the pod itself is the last test. A kernel is compared
for each class of shapes, dtype and order in memory, on the very tensors that it is first given. That takes a copy of
the result and a synchronisation: a kernel that is first given something while a graph is captured is left out of it.
"""

import importlib.util
import time
from collections.abc import Callable, Hashable, Sequence
from itertools import starmap

import structlog
import torch
from torch import Tensor

from distri.ranks.recording import in_pieces
from distri.ranks.spans import Spans

log = structlog.get_logger(__name__)

TRACK = "kernels"
# A result may differ from the plain layers' by this part of its largest value: two roundings of a half type, since the
# plain layers round between two operations where a kernel does not.
APART = {torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6, torch.float32: 1e-5}
MOMENTS_APART = 1e-4  # of a deviation or a variance: less than a half type's rounding of what is normalised by them


class FusedKernels:
    """The kernels, each behind a comparison.

    Args:
        spans: where comparisons are noted, each with the time that compiling took.
        wanted: False uses none of them.
        device_types: of tensors that they are used for; Triton's interpreter takes those of a CPU.
        channels_last: whether networks are laid channels last; None where that pays, which is in half precision on a
            GPU, and only with these norms. Equal on all ranks: it says in which order halo rows cross.

    Attributes:
        start_s: what compiling or loading, and comparing, have taken until now.
        began_cold: whether nothing was compiled when the first of them began.
    """

    def __init__(
        self,
        spans: Spans | None = None,
        *,
        wanted: bool = True,
        device_types: Sequence[str] = ("cuda",),
        channels_last: bool | None = None,
    ) -> None:
        self._spans = Spans() if spans is None else spans
        usable = wanted and importlib.util.find_spec("triton") is not None
        self._device_types = frozenset(device_types) if usable else frozenset[str]()
        if wanted and not usable and torch.version.cuda is not None:
            log.warning("no fused kernel is used", reason="triton is not installed; torch for CUDA brings it")
        self._channels_last = channels_last
        self.start_s, self.began_cold = 0.0, False
        self._use: dict[Hashable, bool] = {}

    @property
    def used(self) -> int:
        """How many kinds of work kernels do, of those that came up."""
        return sum(self._use.values())

    @property
    def left_out(self) -> int:
        """How many they were not trusted with."""
        return len(self._use) - self.used

    def takes(self, x: Tensor) -> bool:
        """Whether kernels may be used for this activation at all."""
        return x.device.type in self._device_types and x.dtype in APART and x.numel() > 0

    def channels_last(self, like: Tensor) -> bool:
        """Whether a network with weights like this one is laid channels last."""
        if self._channels_last is not None:
            return self._channels_last
        return like.device.type in self._device_types and like.dtype in (torch.float16, torch.bfloat16)

    def moments(self, x_BCS: Tensor, groups: int, added_BC: Tensor | None, *, plain: Callable[[], Tensor]) -> Tensor:
        """See `kernels.moments.group_moments`; `plain` gives the same."""

        def fused() -> Tensor:
            from distri.layers.kernels.moments import group_moments

            return group_moments(x_BCS, groups, added_BC)

        return self._run("moments", x_BCS, fused, plain, moments_apart, MOMENTS_APART)

    def image_moments(
        self,
        moments_R2BG: Sequence[Tensor],
        pixels_R: Sequence[int],
        index: int,
        own_stale_2BG: Tensor | None,
        *,
        plain: Callable[[], Tensor],
    ) -> Tensor:
        """See `kernels.merging.image_moments`; `plain` gives the same."""

        def fused() -> Tensor:
            from distri.layers.kernels.merging import image_moments

            return image_moments(moments_R2BG, pixels_R, index, own_stale_2BG)

        kernel = "merged moments" if own_stale_2BG is None else "corrected moments"
        own_2BG = moments_R2BG[index]
        return self._run(f"{kernel} of {len(pixels_R)}", own_2BG, fused, plain, moments_apart, MOMENTS_APART)

    def scaled(
        self,
        x_BCS: Tensor,
        moments_2BG: Tensor,
        norm: torch.nn.GroupNorm,
        *,
        silu: bool,
        added_BC: Tensor | None,
        plain: Callable[[], Tensor],
    ) -> Tensor:
        """See `kernels.scaling.scaled`; `plain` gives the same."""

        def fused() -> Tensor:
            from distri.layers.kernels.scaling import scaled

            return scaled(x_BCS, moments_2BG, norm.weight, norm.bias, norm.eps, silu=silu, added_BC=added_BC)

        return self._run("norm and SiLU" if silu else "norm", x_BCS, fused, plain, apart)

    def gated(self, x_N2C: Tensor, *, plain: Callable[[], Tensor]) -> Tensor:
        """See `kernels.gating.gated`; `plain` gives the same."""

        def fused() -> Tensor:
            from distri.layers.kernels.gating import gated

            return gated(x_N2C)

        return self._run("gate", x_N2C, fused, plain, apart)

    def summed(
        self,
        x_BCS: Tensor,
        other_BCS: Tensor,
        bias_C: Tensor,
        other_bias_C: Tensor | None,
        *,
        plain: Callable[[], Tensor],
    ) -> Tensor:
        """See `kernels.summing.summed`; `plain` gives the same."""

        def fused() -> Tensor:
            from distri.layers.kernels.summing import summed

            return summed(x_BCS, other_BCS, bias_C, other_bias_C)

        return self._run("sum" if other_bias_C is None else "sum with two biases", x_BCS, fused, plain, apart)

    def softmax(self, scores_NRK: Tensor, values_NKD: Tensor, *, plain: Callable[[], Tensor]) -> Tensor:
        """See `kernels.softmax.softmax`, in the dtype of the values; `plain` gives the same."""

        def fused() -> Tensor:
            from distri.layers.kernels.softmax import softmax

            return softmax(scores_NRK, values_NKD.dtype)

        return self._run("softmax", values_NKD, fused, plain, apart)

    def _run(
        self,
        kernel: str,
        x: Tensor,
        fused: Callable[[], Tensor],
        plain: Callable[[], Tensor],
        judge: Callable[[Tensor, Tensor], float],
        within: float | None = None,
    ) -> Tensor:
        channels_last = x.ndim > 2 and x.stride(1) == 1
        kind = (kernel, x.dtype, channels_last, x.shape[1], x.numel().bit_length())
        use = self._use.get(kind)
        if use is None:
            if x.is_cuda and torch.cuda.is_current_stream_capturing():
                return plain()
            return self._compare(kind, x, fused, plain, judge, APART[x.dtype] if within is None else within)
        return fused() if use else plain()

    def _compare(
        self,
        kind: tuple[str, torch.dtype, bool, int, int],
        x: Tensor,
        fused: Callable[[], Tensor],
        plain: Callable[[], Tensor],
        judge: Callable[[Tensor, Tensor], float],
        within: float,
    ) -> Tensor:
        """The plain result, after it has been decided whether the kernel is used from now on."""
        began_ns, wanted = time.monotonic_ns(), plain()
        reason = ""
        difference = float("nan")
        try:
            from distri.layers.kernels.cache import any_compiled, use_cache

            if not self._use:
                use_cache()
                self.began_cold = not any_compiled()
            difference = judge(fused(), wanted)
        except torch.OutOfMemoryError:
            return wanted  # another time, with more room
        except Exception as error:  # noqa: BLE001 - Triton and the compiler beneath it raise whatever they like
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
        if not reason and not difference <= within:
            if not bool(torch.isfinite(wanted).all()):
                return wanted  # nothing to compare with
            reason = f"differs from the plain layers by {difference:.1e} of the largest value"
        use = self._use[kind] = not reason
        kernel, dtype, channels_last, channels, _ = kind
        about = {
            "dtype": str(dtype).removeprefix("torch."),
            "channels": channels,
            "channels_last": channels_last,
            "elements": x.numel(),
        }
        if use:
            log.debug("fused kernel agrees with the plain layers", kernel=kernel, difference=difference, **about)
        else:
            log.warning("fused kernel is not used", kernel=kernel, reason=reason, **about)
        detail = about | ({"difference": difference} if use else {"not_used": reason})
        ended_ns = time.monotonic_ns()
        self.start_s += (ended_ns - began_ns) / 1e9
        self._spans.add(f"compare {kernel}", began_ns, ended_ns, track=TRACK, **detail)
        return wanted


def apart(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest value; synchronises."""
    pieces = in_pieces(found, wanted)
    largest = torch.stack([piece.abs().max().float() for _, piece in pieces]).max()
    difference = torch.stack(list(starmap(_largest_difference, pieces))).max()
    return float(difference / largest) if float(largest) > 0 else float(difference)


def moments_apart(found_2BG: Tensor, wanted_2BG: Tensor) -> float:
    """Largest difference of means in deviations, or of variances in variances, of the widest group; synchronises."""
    (mean_BG, variance_BG), (wanted_mean_BG, wanted_variance_BG) = found_2BG, wanted_2BG
    variance = wanted_variance_BG.max()
    deviation = torch.where(variance > 0, variance.sqrt(), wanted_mean_BG.abs().max() + 1e-30)
    means = (mean_BG - wanted_mean_BG).abs().max() / deviation
    return float(torch.maximum(means, (variance_BG - wanted_variance_BG).abs().max() / deviation**2))


def _largest_difference(found: Tensor, wanted: Tensor) -> Tensor:
    return (found.float() - wanted.float()).abs().max()
