"""Convolution of one patch, with border rows from the two neighbours."""

# B batch, C channels, H and W of this rank's patch

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distri.layers.context import Context
from distri.ranks.errors import Unsplittable
from distri.ranks.patches import ROWS
from distri.ranks.sites import Incoming, Outgoing

# From this many rows on, a patch is convolved as it is and its border rows once more with the neighbour's: a copy of
# the whole patch with two rows more would be a fifth of the VAE's peak memory. Below, the copy is faster.
BORDERS_APART_ROWS = 64

# On a GPU that is six kernels instead of one copy, which takes less time for anything smaller: 16 us at 4 TB/s.
BORDERS_APART_BYTES_ON_GPU = 1 << 26


class PatchConv2d:
    """What `nn.Conv2d` gives on the whole image, for this rank's patch of it.

    Args:
        module: owner of weight and bias; zero padding, no dilation.
        site: the module's name.
        context: where the evaluation stands.

    Communication: the row (or column) beyond each inner border, from that neighbour only. A kernel of 3 with stride 1
    needs both; with stride 2 it needs the one before alone, since patches start on even rows. A 1x1 kernel needs none.
    """

    def __init__(self, module: nn.Conv2d, site: str, context: Context) -> None:
        kernel, stride, padding = module.kernel_size[0], module.stride[0], module.padding[0]
        square = len({*module.kernel_size}) == len({*module.stride}) == 1 and len({*module.padding}) == 1
        if not square or isinstance(padding, str) or set(module.dilation) != {1} or module.padding_mode != "zeros":
            raise Unsplittable(site, "Conv2d", "only square kernels with zero padding and without dilation are known")
        self.before, self.after = padding, max(0, kernel - stride - padding)
        if self.before > 1 or self.after > 1:
            raise Unsplittable(site, "Conv2d", f"kernel {kernel} with padding {padding} reaches over more than one row")
        self.module = module
        self.site = site
        self.context = context

    def __call__(self, x_BCHW: Tensor, *, with_bias: bool = True) -> Tensor:
        """This rank's patch of the output; trades at this layer's site unless the layer reaches over no border.

        Args:
            x_BCHW: this rank's patch.
            with_bias: False where whoever comes next adds the bias.
        """
        module, context = self.module, self.context
        bias = module.bias if with_bias else None
        if not context.split or not (self.before or self.after):
            return torch.as_tensor(module._conv_forward(x_BCHW, module.weight, bias))
        axis, dim = context.axis, context.patches.dim
        rows = x_BCHW.shape[dim]
        last = axis.size - 1

        def row(length: int) -> tuple[int, ...]:
            """Shape of so many rows as they cross: channels last where the network is laid so."""
            shape = list(x_BCHW.shape)
            shape[dim] = length
            return tuple(shape) if not context.channels_last else (shape[0], *shape[2:], shape[1])

        def crossing(rows_BCHW: Tensor) -> Tensor:
            return rows_BCHW.movedim(1, -1) if context.channels_last else rows_BCHW

        def arrived(rows: Tensor) -> Tensor:
            return rows.movedim(-1, 1) if context.channels_last else rows

        outgoing, incoming = [], []
        if axis.index > 0:
            if self.after:
                first_rows = x_BCHW.narrow(dim, 0, self.after)
                outgoing.append(Outgoing((axis.index - 1,), crossing(first_rows), everyone=False))
            if self.before:
                incoming.append(Incoming(axis.index - 1, row(self.before), everyone=False))
        if axis.index < last:
            if self.before:
                last_rows = x_BCHW.narrow(dim, rows - self.before, self.before)
                outgoing.append(Outgoing((axis.index + 1,), crossing(last_rows), everyone=False))
            if self.after:
                incoming.append(Incoming(axis.index + 1, row(self.after), everyone=False))
        with context.exchange.trade(self.site, outgoing, incoming, context.evaluation_of_rest, like=x_BCHW) as received:
            halos = [arrived(rows) for rows in received]
            above = halos.pop(0) if axis.index > 0 and self.before else None
            below = halos.pop(0) if halos else None
            large = rows >= BORDERS_APART_ROWS and (not x_BCHW.is_cuda or x_BCHW.nbytes >= BORDERS_APART_BYTES_ON_GPU)
            if large and self.after <= self.before:
                return self._borders_apart(x_BCHW, above, below, bias)
            if above is None:
                above = arrived(x_BCHW.new_zeros(row(self.before)))
            if below is None:
                # At the end of the image the padding is the module's, which may be more rows than a halo has.
                below = arrived(x_BCHW.new_zeros(row(self.before if axis.index == last else self.after)))
            padded = torch.cat([above, x_BCHW, below], dim)
        return self._without_padding(padded, bias)

    def _without_padding(self, x_BCHW: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of rows that bring their borders along; across the rows the padding is the module's."""
        module = self.module
        across = (0, self.before) if self.context.patches.dim == ROWS else (self.before, 0)
        return functional.conv2d(x_BCHW, module.weight, bias, module.stride, across)

    def _borders_apart(self, x_BCHW: Tensor, above: Tensor | None, below: Tensor | None, bias: Tensor | None) -> Tensor:
        """The convolution of the patch alone, its first and last row then replaced."""
        module, dim, reach = self.module, self.context.patches.dim, self.module.kernel_size[0] - 1
        out_BCHW = torch.as_tensor(module._conv_forward(x_BCHW, module.weight, bias))
        if above is not None:
            first_BCHW = torch.cat([above, x_BCHW.narrow(dim, 0, reach)], dim)
            out_BCHW.narrow(dim, 0, 1).copy_(self._without_padding(first_BCHW, bias))
        if below is not None:
            last_BCHW = torch.cat([x_BCHW.narrow(dim, x_BCHW.shape[dim] - reach, reach), below], dim)
            out_BCHW.narrow(dim, out_BCHW.shape[dim] - 1, 1).copy_(self._without_padding(last_BCHW, bias))
        return out_BCHW


class PatchDownsample2d:
    """What diffusers' `Downsample2D` gives on the whole image, for this rank's patch of it.

    The VAE's encoder pads the right and the lower border only, by one, and convolves without padding; the lower border
    of the image is that of the last patch alone. With padding inside the convolution (the UNet) there is nothing to do.

    Args:
        module: owner of the convolution, which is split in its own right and fetches the row after the patch.
        site: the module's name.
        context: where the evaluation stands.
    """

    def __init__(self, module: Any, site: str, context: Context) -> None:
        if not module.use_conv or module.padding not in (0, 1) or module.norm is not None:
            raise Unsplittable(site, "Downsample2D", "only a convolution of stride 2 with padding 0 or 1 is known")
        self.module = module
        self.context = context

    def __call__(self, x_BCHW: Tensor, *_: Any, **__: Any) -> Tensor:
        """This rank's patch of the output; trades at the convolution's site."""
        if self.module.padding == 0:
            context = self.context
            end = int(context.axis.index == context.axis.size - 1)
            right, below = (1, end) if context.patches.dim == ROWS else (end, 1)
            x_BCHW = functional.pad(x_BCHW, (0, right, 0, below))
        return torch.as_tensor(self.module.conv(x_BCHW))
