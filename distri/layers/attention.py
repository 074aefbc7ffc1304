"""Attention of one patch: its own queries over everybody's keys and values, or over text and reference pictures."""

# B batch, T tokens of this rank's patch, K tokens of the whole image, L tokens of text, C channels

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from distri.layers.context import Context
from distri.layers.kernels.fused import FusedKernels
from distri.layers.references import mask_place, place_of, put
from distri.layers.wide_heads import attend_in_chunks, is_too_wide
from distri.layers.windows import Windows, windows_of
from distri.ranks.errors import Unsplittable
from distri.ranks.residuals import Keep
from distri.ranks.rows import Rows
from distri.ranks.sites import Incoming, Outgoing

# diffusers' processors for plain attention, which the split layers compute themselves.
_PLAIN_PROCESSORS = frozenset(
    {"AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor", "AttnProcessorNPU"}
)


def attend(q_BTC: Tensor, k_BKC: Tensor, v_BKC: Tensor, heads: int, kernels: FusedKernels) -> Tensor:
    """Scaled dot-product attention, all heads; returns BTC."""

    def by_head(x_BNC: Tensor) -> Tensor:
        return x_BNC.view(*x_BNC.shape[:2], heads, -1).transpose(1, 2)

    q_BHTD, k_BHKD, v_BHKD = by_head(q_BTC), by_head(k_BKC), by_head(v_BKC)
    if is_too_wide(q_BTC, q_BTC.shape[2] // heads):
        out_BHTD = attend_in_chunks(q_BHTD, k_BHKD, v_BHKD, kernels)
    else:
        out_BHTD = scaled_dot_product_attention(q_BHTD, k_BHKD, v_BHKD)
    return out_BHTD.transpose(1, 2).flatten(2)


class PatchSelfAttention:
    """What diffusers' `Attention` gives over the whole image, for this rank's queries.

    Args:
        module: owner of the projections (and, in a VAE, of a GroupNorm, which is split in its own right).
        site: the module's name.
        context: where the evaluation stands.
        halvings: how many stride-2 layers lie before it (doublings are negative).

    Communication: keys and values of this rank's tokens to every other rank of the axis. Keys stand in the order of the
    ranks; the order of the image's pixels does not matter to attention. Within windows, to those ranks alone whose
    tokens see them.
    """

    def __init__(self, module: Any, site: str, context: Context, halvings: int) -> None:
        refuse_unknown(module, site)
        self.module = module
        self.site = site
        self.context = context
        self.halvings = halvings

    def __call__(
        self,
        x: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """This rank's patch of the output; `x` is BTC, or BCHW as in a VAE, and so is what is returned."""
        module = self.module
        if encoder_hidden_states is not None or attention_mask is not None:
            raise Unsplittable(self.site, "Attention", "self-attention was given a mask or other states")
        windows = windows_of(self.context.patches, self.context.window, self.halvings, self.site)
        if not self.context.split and windows is None and not is_too_wide(x, module.to_q.out_features // module.heads):
            return torch.as_tensor(type(module).forward(module, x))
        x_BTC = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        if module.group_norm is not None:
            x_BTC = module.group_norm(x_BTC.transpose(1, 2)).transpose(1, 2)
        q_BTC = module.to_q(x_BTC)
        if windows is not None:
            out_BTC = self._attend_in_windows(windows, q_BTC, x_BTC)
        elif self.context.split and self.context.side_by_side and self.context.keep is Keep.NOTHING:
            out_BTC = self._attend_side_by_side(q_BTC, x_BTC)
        else:
            k_BKC, v_BKC = module.to_k(x_BTC), module.to_v(x_BTC)
            if self.context.split:
                k_BKC, v_BKC = self._whole_image(k_BKC, v_BKC)
            out_BTC = attend(q_BTC, k_BKC, v_BKC, module.heads, self.context.kernels)
        out = module.to_out[0](out_BTC)
        if x.ndim == 4:
            out = out.transpose(1, 2).reshape(x.shape)
        if module.residual_connection:
            out = out + x
        return torch.as_tensor(_rescaled(out, module))

    def _whole_image(self, k_BTC: Tensor, v_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the whole image: this rank's own are fresh, the others' are as old as the phase allows."""
        context, axis = self.context, self.context.axis
        batch, found, channels = k_BTC.shape
        tokens = self._tokens(found)
        if context.keep is Keep.RESIDUAL:
            others = context.residuals.swap(context.exchange, self.site, (k_BTC, v_BTC), axis.others)
            return self._in_rank_order(k_BTC, others[0::2]), self._in_rank_order(v_BTC, others[1::2])
        outgoing = [Outgoing(axis.others, tensor, everyone=True) for tensor in (k_BTC, v_BTC)]
        incoming = [
            Incoming(peer, (batch, tokens[peer], channels), everyone=True) for peer in axis.others for _ in range(2)
        ]
        evaluation = context.evaluation_of_kv(self.site)
        with context.exchange.trade(self.site, outgoing, incoming, evaluation, like=k_BTC) as received:
            if context.keep is Keep.BASE:
                context.residuals.keep(self.site, (k_BTC, v_BTC), received)
            return self._in_rank_order(k_BTC, received[0::2]), self._in_rank_order(v_BTC, received[1::2])

    def _attend_side_by_side(self, q_BTC: Tensor, x_BTC: Tensor) -> Tensor:
        """Attention over keys and values of the whole image, as `_whole_image` has them, where they arrive."""
        context, module = self.context, self.module
        batch, found, _ = x_BTC.shape
        channels = module.to_k.out_features
        rows = Rows(self._tokens(found), (batch, 2 * channels))

        def fill(own_TBC: Tensor) -> None:
            for projection, place_TBC in zip(
                (module.to_k, module.to_v), torch.split(own_TBC, channels, 2), strict=True
            ):
                if batch == 1 and projection.bias is None:
                    torch.mm(x_BTC[0], projection.weight.t(), out=place_TBC[:, 0])
                else:
                    place_TBC.copy_(projection(x_BTC).transpose(0, 1))

        evaluation = context.evaluation_of_kv(self.site)
        with context.exchange.share(self.site, rows, fill, evaluation, like=q_BTC) as whole_KBC:
            k_BKC, v_BKC = torch.split(whole_KBC.transpose(0, 1), channels, 2)
            return attend(q_BTC, k_BKC, v_BKC, module.heads, self.context.kernels)

    def _attend_in_windows(self, windows: Windows, q_BTC: Tensor, x_BTC: Tensor) -> Tensor:
        """Attention of this rank's tokens, each to its window; what others hold of it is as old as the phase allows."""
        module, index = self.module, self.context.axis.index
        size = windows.patches.size(index)
        self._tokens(x_BTC.shape[1])
        q_BHWC, k_BHWC, v_BHWC = (
            tensor.view(x_BTC.shape[0], *size, -1) for tensor in (q_BTC, module.to_k(x_BTC), module.to_v(x_BTC))
        )
        if self.context.split:
            k_BHWC, v_BHWC = self._seen_rows(windows, k_BHWC, v_BHWC)

        def attend_to(q_BTC: Tensor, k_BKC: Tensor, v_BKC: Tensor) -> Tensor:
            return attend(q_BTC, k_BKC, v_BKC, module.heads, self.context.kernels)

        return windows.attend(index, q_BHWC, k_BHWC, v_BHWC, attend_to).flatten(1, 2)

    def _seen_rows(self, windows: Windows, k_BHWC: Tensor, v_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the rows that this rank's tokens see: its own, and those of the ranks that hold them."""
        context, axis, index = self.context, self.context.axis, self.context.axis.index
        dim = windows.patches.dim - 1  # of BHWC
        start = windows.patches.edges[index]

        def shape(rows: int) -> tuple[int, ...]:
            whole = list(k_BHWC.shape)
            whole[dim] = rows
            return tuple(whole)

        outgoing = [
            Outgoing((peer,), tensor.narrow(dim, first - start, end - first), everyone=False)
            for peer in axis.others
            for first, end in [windows.shared(index, peer)]
            for tensor in (k_BHWC, v_BHWC)
            if end > first
        ]
        holders = [peer for peer in axis.others if windows.shared_rows(peer, index)]
        incoming = [
            Incoming(peer, shape(windows.shared_rows(peer, index)), everyone=False)
            for peer in holders
            for _ in range(2)
        ]
        total_bytes = 2 * windows.traded_rows * math.prod(shape(1)) * k_BHWC.element_size()
        evaluation = context.evaluation_of_kv(self.site)
        with context.exchange.trade(
            self.site, outgoing, incoming, evaluation, like=k_BHWC, total_bytes=total_bytes
        ) as received:
            before = sum(peer < index for peer in holders)
            k_parts, v_parts = (
                [*others[:before], own_BHWC, *others[before:]]
                for own_BHWC, others in ((k_BHWC, received[0::2]), (v_BHWC, received[1::2]))
            )
            return torch.cat(k_parts, dim), torch.cat(v_parts, dim)

    def _tokens(self, found: int) -> tuple[int, ...]:
        """How many tokens each rank has; this one has `found`."""
        tokens, index = self.context.patches.at(self.halvings).tokens, self.context.axis.index
        if found != tokens[index]:
            # Gloo takes a shorter message than it expects for a whole one.
            raise Unsplittable(self.site, "Attention", f"found {found} tokens, wanted {tokens[index]}")
        return tuple(tokens)

    def _in_rank_order(self, own: Tensor, others: Sequence[Tensor]) -> Tensor:
        index = self.context.axis.index
        return torch.cat([*others[:index], own, *others[index:]], dim=1)


class TextCrossAttention:
    """Attention over the text, and over reference pictures: local, their keys and values computed once per image.

    Args:
        module: owner of the projections.
        site: the module's name.
        context: holds the keys and values; its owner sees to it that they are those of the image.
        halvings: how many stride-2 layers lie before it.
    """

    def __init__(self, module: Any, site: str, context: Context, halvings: int) -> None:
        refuse_unknown(module, site)
        self.module = module
        self.site = site
        self.context = context
        self.halvings = halvings

    def __call__(
        self, x_BTC: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        """This rank's patch of the output, BTC. No communication."""
        module, cache, kernels = self.module, self.context.text, self.context.kernels
        if attention_mask is not None:
            raise Unsplittable(self.site, "Attention", "cross-attention was given a mask")
        if self.site not in cache:
            self.read(encoder_hidden_states)
        q_BTC = module.to_q(x_BTC)
        k_BLC, v_BLC = cache[self.site]
        out_BTC = attend(q_BTC, k_BLC, v_BLC, module.heads, kernels)
        for number in self._references:
            k_BNC, v_BNC = cache[place_of(self.site, number)]
            added_BTC = attend(q_BTC, k_BNC, v_BNC, module.heads, kernels)
            if self.context.references[number].mask is not None:
                (mask_BT1,) = cache[mask_place(number, self.halvings)]
                added_BTC = added_BTC * mask_BT1
            out_BTC = out_BTC + added_BTC
        return _rescaled(module.to_out[0](out_BTC), module)

    def read(self, text_BLC: Tensor) -> None:
        """Compute keys and values of a text and of references, into the place of those that are there."""
        module, cache = self.module, self.context.text
        put(cache, self.site, (module.to_k(text_BLC), module.to_v(text_BLC)))
        for number in self._references:
            put(cache, place_of(self.site, number), self.context.references[number].keys_and_values(self.site))

    @property
    def _references(self) -> list[int]:
        """Those that have projections for this layer; a control network's layers attend to none."""
        return [number for number, one in enumerate(self.context.references) if self.site in one.projections]


def _rescaled(out: Tensor, module: Any) -> Tensor:
    """Divided by the module's factor; by one, which is what it is in SDXL, nothing is divided."""
    return out if module.rescale_output_factor == 1 else out / module.rescale_output_factor


def refuse_unknown(module: nn.Module, site: str) -> None:
    """Raise Unsplittable for an `Attention` with parts that neither layer computes."""
    parts = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj", "add_q_proj", "norm_added_k")
    for part in parts:
        if getattr(module, part, None) is not None:
            raise Unsplittable(site, "Attention", f"it has {part}")
    processor = type(getattr(module, "processor", None)).__name__
    if processor not in _PLAIN_PROCESSORS:
        raise Unsplittable(site, "Attention", f"its processor is {processor}; set AttnProcessor2_0 first")
    if getattr(module, "fused_projections", False):
        raise Unsplittable(site, "Attention", "its projections are fused; call unfuse_qkv_projections first")
