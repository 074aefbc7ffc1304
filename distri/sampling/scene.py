"""A picture that is painted anew in part: its mask at every size, and the new part in the rest of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distri.model.image import Fit, ImageSpec, Inpaint, Pixels, StartPicture
from distri.model.passes.stages import FACTOR, Stage
from distri.ranks.errors import BadImage
from distri.sampling.pixels import placed

PAINTED = 128  # levels of a mask from which on a pixel is painted anew


@dataclass(frozen=True)
class Scene:
    """A picture, and how much of each of its pixels is the new one's.

    Attributes:
        start: the picture, its pixels read.
        inpaint: how its mask is meant.
        shares: HW, float32, 0 to 1, in the picture's size, on the CPU.
    """

    start: StartPicture
    inpaint: Inpaint
    shares: Tensor

    @classmethod
    def of_image(cls, image: ImageSpec) -> Scene | None:
        """That of an image; None if nothing of it is painted anew. Raises BadImage: its mask was not read."""
        start = image.picture
        if start is None or start.inpaint is None:
            return None
        if start.inpaint.mask is None:
            raise BadImage("the mask of the picture that it begins with was not read")
        return cls.of(start, start.inpaint, start.inpaint.mask)

    @classmethod
    def of(cls, start: StartPicture, inpaint: Inpaint, mask: Pixels) -> Scene:
        """That of a picture and its mask."""
        return cls(start, inpaint, shares_of(mask, inpaint.grow, inpaint.feather))

    def latent_mask(self, size: tuple[int, int], canvas: Stage, crop: tuple[int, int]) -> Tensor:
        """Where the latent of a pass is painted anew: 11HW of 0 and 1.

        A latent element is, if any of its pixels is: else the edge of what is masked would stay.

        Args:
            size: width and height of the image on the canvas.
            canvas: the pass.
            crop: left and top of the image on it.
        """
        return functional.max_pool2d(self._new(size, canvas, crop).float(), FACTOR)

    def masked(self, picture_13HW: Tensor, size: tuple[int, int], canvas: Stage, crop: tuple[int, int]) -> Tensor:
        """A picture of a pass without what is painted anew: 0, the middle grey, there.

        Args:
            picture_13HW: -1 to 1, in the canvas' size.
            size, canvas, crop: see `latent_mask`.
        """
        return picture_13HW * self._new(size, canvas, crop).logical_not().to(picture_13HW)

    def pasted(self, levels_HW3: Pixels) -> Pixels:
        """A decoded image with what stays of the picture around it, whose pixels are the picture's own bit for bit.

        In the picture's size if a region was rendered; else in that of the image, to which the picture comes by its
        fit.
        """
        if self.start.pixels is None:
            raise AssertionError("the picture was not read")
        new_13HW, picture_13HW = _levels(levels_HW3), _levels(self.start.pixels)
        share_11HW = self.shares[None, None]
        if self.inpaint.region is not None:
            left, top, right, bottom = self.inpaint.region
            part_13HW = _resized(new_13HW, bottom - top, right - left)
            new_13HW = picture_13HW.clone()
            new_13HW[:, :, top:bottom, left:right] = part_13HW
        elif picture_13HW.shape != new_13HW.shape:
            height, width = new_13HW.shape[2:]
            alone = Stage(width, height, steps=0, strength=1.0, seed=0)
            at = ((width, height), alone, (0, 0))
            picture_13HW = ((placed(picture_13HW / 127.5 - 1, self.fit, *at) + 1) * 127.5).round()
            share_11HW = self._sharp(placed(share_11HW, self.fit, *at))
        mixed_13HW = (picture_13HW + share_11HW * (new_13HW - picture_13HW)).round().clamp(0, 255)
        pixels: Pixels = mixed_13HW[0].permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
        return pixels

    @property
    def fit(self) -> Fit:
        """How what is rendered comes to the size in which it is."""
        return self.start.fit if self.inpaint.region is None else Fit.STRETCH

    def picture(self, whole_13HW: Tensor) -> Tensor:
        """The part of the picture that is rendered."""
        return self._part(whole_13HW)

    def _new(self, size: tuple[int, int], canvas: Stage, crop: tuple[int, int]) -> Tensor:
        """Which pixels of a pass are painted anew, 11HW, on the CPU."""
        return self._sharp(placed(self._part(self.shares[None, None]), self.fit, size, canvas, crop)) > 0

    def _part(self, whole_BCHW: Tensor) -> Tensor:
        if self.inpaint.region is None:
            return whole_BCHW
        left, top, right, bottom = self.inpaint.region
        return whole_BCHW[:, :, top:bottom, left:right]

    def _sharp(self, share_11HW: Tensor) -> Tensor:
        """A mask in another size, whose edge is as sharp as before."""
        return share_11HW.clamp(0, 1) if self.inpaint.feather else (share_11HW >= 0.5).float()


def shares_of(mask: Pixels, grow: int, feather: int) -> Tensor:
    """How much of each pixel is the new picture's: float32, 0 to 1.

    All of it within the mask and `grow` pixels around it, and over `feather` pixels more it falls evenly to nothing, so
    that nothing masked shines through. Without feather it is 0 or 1.
    """
    painted_HW = torch.from_numpy(mask).ge(PAINTED).to(torch.int32)
    radius = -(-feather // 2)
    if grow + radius:
        painted_HW = (_box_sum(painted_HW, grow + radius) > 0).to(torch.int32)
    if not radius:
        return painted_HW.float()
    return _box_sum(painted_HW, radius).float() / (2 * radius + 1) ** 2


def _box_sum(x_HW: Tensor, radius: int) -> Tensor:
    """Sums over squares of 2 `radius` + 1 around each pixel, the border going on; int32, so exact at any radius."""
    for dim in (0, 1):
        length = x_HW.shape[dim]
        around = torch.arange(-radius - 1, length + radius).clamp(0, length - 1)
        sums_HW = x_HW.index_select(dim, around).cumsum(dim, dtype=torch.int32)
        x_HW = sums_HW.narrow(dim, 2 * radius + 1, length) - sums_HW.narrow(dim, 0, length)
    return x_HW


def _levels(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def _resized(levels_13HW: Tensor, height: int, width: int) -> Tensor:
    if levels_13HW.shape[2:] == (height, width):
        return levels_13HW
    size = (height, width)
    big_13HW = functional.interpolate(levels_13HW, size=size, mode="bicubic", align_corners=False, antialias=True)
    return big_13HW.round().clamp(0, 255)
