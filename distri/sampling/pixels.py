"""Between latents and pixels, on all ranks of a replica: decode, decode again in float32, enlarge, encode."""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from distri.layers.vae import SplitVAE
from distri.model.image import Fit
from distri.model.passes.stages import Enlargement, Stage
from distri.ranks import p2p
from distri.ranks.mesh import Axis, Mesh
from distri.ranks.patches import Patches, largest_degree

# Of a rank's memory for activations of the VAE; weights, latents and what is kept for evaluations have the rest.
SHARE_OF_MEMORY = 0.5

# Activations as wide as the widest that are held at once: 3.0 counted (docs/engine.md), and what convolutions work in.
WIDEST_AT_ONCE = 3.5

LEAN_BYTES = 1 << 28  # of an activation, where memory has run out before

BLANK_SPREAD = 2  # levels of 255: an image whose pixels differ by no more shows nothing


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image of uint8 levels.

    Attributes:
        pixels: uint8, height x width x 3, on the leader of the replica; None elsewhere.
        finite: whether latent and decoded image are; equal on all ranks of the replica.
        blank: whether all pixels are about equal; equal on all ranks of the replica.
        repairs: what was done again, and why; equal on all ranks of the replica.
    """

    pixels: npt.NDArray[np.uint8] | None
    finite: bool
    blank: bool
    repairs: tuple[str, ...]


class ReplicaVAE:
    """A VAE whose work all ranks of a replica share. They call it together, in the same order.

    What would not fit into a rank's memory is computed in strips. That depends on the size of the picture and of the
    memory and on nothing else, since strips round in another order: an image is to be the same whatever was before it.

    Args:
        vae: split.
        mesh: whose replica it is.
        memory_bytes: of a rank.
    """

    def __init__(self, vae: SplitVAE, mesh: Mesh, *, memory_bytes: float = math.inf) -> None:
        self._vae = vae
        self._mesh = mesh
        self._memory_bytes = memory_bytes
        self.save_memory(wanted=False)

    def save_memory(self, *, wanted: bool) -> None:
        """Whether to use as little as can be, from the next picture on."""
        usual = self._memory_bytes * SHARE_OF_MEMORY / WIDEST_AT_ONCE
        self._vae.most_bytes = min(usual, LEAN_BYTES) if wanted else usual

    def decode(
        self, latent_1CHW: Tensor, crop: tuple[int, int], size: tuple[int, int], *, repairs: bool = True
    ) -> DecodedImage:
        """The picture of a final latent. Blocks.

        Args:
            latent_1CHW: whole, equal on all ranks.
            crop: left and top of what is wanted, in pixels of the canvas.
            size: its width and height.
            repairs: whether what is not finite may be decoded again, for which the weights are converted.
        """
        axis, patch_13HW, patches, finite, done = self._decode(latent_1CHW, repairs=repairs)
        levels = ((patch_13HW / 2 + 0.5).clamp(0, 1) * 255).nan_to_num().round().to(torch.uint8)
        parts = p2p.collect(axis, levels, [(1, 3, *patches.size(place)) for place in range(axis.size)])
        pixels, blank = None, False
        if self._mesh.is_leader:
            whole_HW3 = torch.cat(parts, dim=patches.dim)[0].permute(1, 2, 0).cpu()
            (left, top), (width, height) = crop, size
            pixels = whole_HW3[top : top + height, left : left + width].contiguous().numpy()
            blank = int(pixels.max()) - int(pixels.min()) <= BLANK_SPREAD
        return DecodedImage(pixels, finite, bool(self._mesh.broadcast_int(blank)), done)

    def decode_patch(self, latent_1CHW: Tensor) -> tuple[Tensor, Patches]:
        """This rank's patch of a final latent's picture before it is rounded, about -1 to 1, and the split. Blocks.

        Without a second try in float32.
        """
        return self._vae.decode(latent_1CHW, self._axis_for(*latent_1CHW.shape[2:]))

    def enlarge(
        self, latent_1CHW: Tensor, height: int, width: int, enlargement: Enlargement
    ) -> tuple[Tensor, tuple[str, ...]]:
        """The latent of the same picture at another size in pixels, and what was repaired. Blocks unless by latents.

        Enlarged by bicubic interpolation, until both sides are covered; what is left over is cut off evenly on both
        sides. Of enlarged pixels the mean of what the encoder gives is taken, without a draw.
        """
        factor = self._vae.factor
        if enlargement is Enlargement.LATENTS:
            return covering(latent_1CHW, height // factor, width // factor), ()
        axis, patch_13HW, patches, _, repairs = self._decode(latent_1CHW)
        shapes = [(1, 3, *patches.size(place)) for place in range(axis.size)]
        parts = p2p.gather(axis, patch_13HW.float(), shapes)
        picture_13HW = enlarged(torch.cat(parts, dim=patches.dim).clamp(-1, 1), height, width)
        encoded_1CHW, again = self._encode(picture_13HW)
        if enlargement is Enlargement.FREQUENCIES:
            low_1CHW = covering(latent_1CHW, height // factor, width // factor)
            rows, columns = latent_1CHW.shape[2:]
            encoded_1CHW = encoded_1CHW + low_frequencies(low_1CHW - encoded_1CHW, rows, columns)
        return encoded_1CHW, repairs + again

    def encode(self, picture_13HW: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """The latent of a picture of -1 to 1, whole and equal on all ranks, and what was repaired. Blocks.

        The mean of what the encoder gives is taken, without a draw.
        """
        return self._encode(picture_13HW)

    def _decode(
        self, latent_1CHW: Tensor, *, repairs: bool = True
    ) -> tuple[Axis, Tensor, Patches, bool, tuple[str, ...]]:
        axis = self._axis_for(latent_1CHW.shape[2], latent_1CHW.shape[3])
        patch_13HW, patches = self._vae.decode(latent_1CHW, axis)
        finite = self._all_finite(axis, patch_13HW)
        done: tuple[str, ...] = ()
        if not finite and repairs and self._repairable and bool(torch.isfinite(latent_1CHW).all()):
            done = (f"decoded again in float32: not finite in {_name(self._vae.vae.dtype)}",)
            with self._vae.in_float32():
                patch_13HW, patches = self._vae.decode(latent_1CHW, axis)
            finite = self._all_finite(axis, patch_13HW)
        return axis, patch_13HW, patches, finite, done

    def _encode(self, picture_13HW: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        factor = self._vae.factor
        axis = self._axis_for(picture_13HW.shape[2] // factor, picture_13HW.shape[3] // factor)
        repairs: tuple[str, ...] = ()
        for again in (False, True):
            with self._vae.in_float32() if again else nullcontext():
                mean_1CHW, _, patches = self._vae.encode(picture_13HW, axis)
            if self._all_finite(axis, mean_1CHW) or not self._repairable or again:
                break
            repairs = (f"encoded again in float32: not finite in {_name(self._vae.vae.dtype)}",)
        shapes = [(1, mean_1CHW.shape[1], *patches.size(place)) for place in range(axis.size)]
        return torch.cat(p2p.gather(axis, mean_1CHW.float(), shapes), dim=patches.dim), repairs

    @property
    def _repairable(self) -> bool:
        return self._vae.vae.dtype is not torch.float32

    def _all_finite(self, axis: Axis, patch: Tensor) -> bool:
        """Whether the patches of all ranks are finite, as the leader's axis finds it; the same on all ranks. Blocks."""
        return p2p.all_agree(self._mesh, axis, bool(torch.isfinite(patch).all()))

    def _axis_for(self, height: int, width: int) -> Axis:
        """All ranks of the replica where the latent has rows for them, else one half's, else each rank by itself."""
        units = largest_degree(height, width, unit=self._vae.unit)
        fitting = [axis for axis in (self._mesh.replica, self._mesh.patch) if axis.size <= units]
        return fitting[0] if fitting else self._mesh.alone


def enlarged(picture_BCHW: Tensor, height: int, width: int) -> Tensor:
    """A picture of -1 to 1 in another size: bicubic (antialiased where it shrinks), cut evenly where it is larger."""
    return covering(picture_BCHW, height, width).clamp(-1, 1)


def covering(x_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Rows and columns of anything in another size: bicubic by one factor, cut evenly where it is larger."""
    rows, columns = x_BCHW.shape[2:]
    scale = max(height / rows, width / columns)
    size = max(height, round(rows * scale)), max(width, round(columns * scale))
    big_BCHW = _resized(x_BCHW, *size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return big_BCHW[:, :, top : top + height, left : left + width]


def low_frequencies(x_BCHW: Tensor, rows: int, columns: int) -> Tensor:
    """What so many rows and columns can hold of a larger tensor, at its own size."""
    return _resized(_resized(x_BCHW, rows, columns), *x_BCHW.shape[2:])


def _resized(x_BCHW: Tensor, height: int, width: int) -> Tensor:
    size = (height, width)
    return functional.interpolate(x_BCHW, size=size, mode="bicubic", align_corners=False, antialias=True)


def placed(picture_13HW: Tensor, fit: Fit, size: tuple[int, int], canvas: Stage, crop: tuple[int, int]) -> Tensor:
    """A picture of -1 to 1 where an image of `size` lies on a canvas, in the canvas' size; its border goes on around.

    Args:
        picture_13HW: of any shape.
        fit: how it comes to the image's.
        size: width and height of the image.
        canvas: the pass that begins with it.
        crop: left and top of the image on the canvas.
    """
    width, height = size
    rows, columns = picture_13HW.shape[2:]
    if fit is Fit.FIT:
        scale = min(width / columns, height / rows)
        width, height = max(1, round(columns * scale)), max(1, round(rows * scale))
    if fit is Fit.FILL:
        picture_13HW = enlarged(picture_13HW, height, width)
    elif (rows, columns) != (height, width):
        picture_13HW = functional.interpolate(
            picture_13HW, size=(height, width), mode="bicubic", align_corners=False, antialias=True
        ).clamp(-1, 1)
    left, top = crop[0] + (size[0] - width) // 2, crop[1] + (size[1] - height) // 2
    margins = left, canvas.width - left - width, top, canvas.height - top - height
    return functional.pad(picture_13HW, margins, mode="replicate")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
