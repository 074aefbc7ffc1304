"""SDXL's UNet on one rank's patch of the latent."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distri.layers import arithmetic, steering_networks
from distri.layers.conditions import Conditions
from distri.layers.context import Context
from distri.layers.controlnet import ControlRows, added_up
from distri.layers.kernels.fused import FusedKernels
from distri.layers.plan import SplitLayers
from distri.layers.references import ReferenceRows, mask_place, put, token_mask
from distri.layers.resolution import halvings_of, nearest_output
from distri.layers.steering_networks import SteeringNetwork
from distri.layers.windows import windows_of
from distri.ranks.errors import Unsplittable
from distri.ranks.exchange import Exchange
from distri.ranks.kept_shapes import KeptShape, KeptShapes, Text, kept_bytes_of
from distri.ranks.mesh import Axis, axis_of_one
from distri.ranks.patches import MOST_WORK, Patches, TokenBalance, split
from distri.ranks.phase import EXACT, Evaluation, Exchanged, NormMode
from distri.ranks.replay import Replays
from distri.ranks.residuals import Keep, Residuals
from distri.ranks.spans import Spans


class SplitUNet:
    """A diffusers `UNet2DConditionModel` whose evaluations are shared by the ranks of an axis.

    Each rank calls it with the whole latent and gets its patch of the noise prediction. On an axis of one rank it is
    the plain network. `remove` restores the network.

    Args:
        unet: SDXL's architecture with any widths; it may be used plainly in between only after `remove`.
        norm_mode: where GroupNorm's statistics come from in the displaced phase.
        most_work: of a rank, times the mean of all, before it hands tokens on; see `distri.ranks.patches.TokenBalance`.
        shapes: where it keeps what it can use again, which other networks may share; recordings too, where there is a
            recorder. None is its own, without one.
        spans: where it is noted what was recorded.
        kernels: the fused kernels; None is those that a GPU has.
        exchange: what displaced evaluations are. Residual: all waits, and keys and values cross as residuals; nothing
            of that is recorded.
    """

    def __init__(
        self,
        unet: Any,
        *,
        norm_mode: NormMode = NormMode.CORRECTED,
        most_work: float = MOST_WORK,
        shapes: KeptShapes | None = None,
        spans: Spans | None = None,
        kernels: FusedKernels | None = None,
        exchange: Exchanged = Exchanged.DISPLACED,
    ) -> None:
        if unet.config.time_cond_proj_dim is not None:
            raise Unsplittable(
                "time_embedding", "TimestepEmbedding", "distilled guidance (time_cond_proj_dim) is not known"
            )
        if unet.config.downsample_padding != 1:
            found = f"downsample_padding is {unet.config.downsample_padding}; only 1, SDXL's, is known"
            raise Unsplittable("down_blocks", "Downsample2D", found)
        self.unet = unet
        self.shapes = KeptShapes(kept_bytes_of(unet.device)) if shapes is None else shapes
        self._name = object()  # among the networks that share what is kept
        self._spans = Spans() if spans is None else spans
        self._most_work, self._residual = most_work, exchange is Exchanged.RESIDUAL
        self._context = Context.alone(norm_mode, kernels or FusedKernels(), like=unet.conv_in.weight)
        self._context.near_output = nearest_output(unet)
        self._layers = SplitLayers(unet, self._context, partial(halvings_of, unet))
        self._conditions: Conditions | None = None
        self._replays: Replays | None = None
        self._texts: dict[Hashable, Text] = {}
        self._controlnets: dict[str, SteeringNetwork] = {}
        self._control: tuple[ControlRows, ...] = ()  # of the image, cut to this rank's patch

    def add_controlnet(self, name: str, network: Any) -> None:
        """Let a network steer images that name it; see `steering_networks.split`. Raises Unsplittable."""
        self._controlnets[name] = steering_networks.split(network, name, self._context)

    def remove_controlnet(self, name: str) -> None:
        """Restore the plain network; no image in progress may name it."""
        self.shapes.drop_recordings()  # which read its weights
        self._controlnets.pop(name).remove()

    def controlnet(self, name: str) -> SteeringNetwork:
        """One that was added."""
        return self._controlnets[name]

    @property
    def unit(self) -> int:
        """Latent rows that stay on one rank, so that every stride-2 layer starts on an even row."""
        return unit_of(self.unet)

    def begin(
        self,
        conditions: Conditions,
        axis: Axis,
        height: int,
        width: int,
        *,
        window: int | None = None,
        replay: bool = True,
        control: Sequence[ControlRows] = (),
    ) -> Patches:
        """Prepare for one image; no communication.

        Args:
            conditions: of the image; keys and values of the text are computed once from them.
            axis: the ranks that share the latent.
            height, width: of the latent.
            window: side in latent elements of the windows that self-attention is computed in; None means the whole.
            replay: whether its evaluations may be recorded and replayed, where there is a recorder.
            control: the control networks that steer it, each added before.

        Returns:
            How the latent is split among the ranks of the axis.

        Raises:
            TooManyRanks: the latent has fewer units than the axis has ranks; on all ranks.
        """
        context = self._context
        patches = patches_of(self.unet, height, width, axis.size, most_work=self._most_work, window=window)
        context.exchange.drain()
        context.axis, context.patches, context.window = axis, patches, window
        batch = conditions.text.shape[0]
        steered = tuple(rows.name for rows in control)
        sizes = batch, height, width, window
        shape = (self._name, axis.name, axis.ranks, *sizes, self.unet.dtype, context.norm_mode, steered)
        kept = self.shapes.get(shape, lambda: self._keep(shape, axis, batch, height, width))
        context.exchange, context.residuals = kept.exchange, kept.residuals
        recorded = replay and not self._residual and self.shapes.recorder is not None
        self._replays, self._texts = (kept.replays, kept.texts) if recorded else (None, {})
        self._control = tuple(self._own_rows(rows, patches) for rows in control)
        self.change(conditions)
        return patches

    def change(self, conditions: Conditions) -> None:
        """Go on with other conditions in the middle of an image; no communication, and nothing of the image is lost.

        Args:
            conditions: of as many rows as those of `begin`. Keys and values of the text are computed from them: where
                evaluations are replayed into the place of those before, from which recordings read them.
        """
        context = self._context
        context.references = conditions.references
        if self._replays is None:
            context.text = {}
        else:
            context.text = self._texts.setdefault(conditions.kind, {})
            self._layers.read_text(conditions.text)
            for rows in self._control:
                self._controlnets[rows.name].read_text(conditions.text)
        self._read_masks(conditions.references)
        self._conditions = conditions

    def _own_rows(self, rows: ControlRows, patches: Patches) -> ControlRows:
        """With this rank's patch of what the network sees, and a scale as the network multiplies with it."""
        context = self._context
        seen = []
        for whole, halvings in zip(rows.seen, self._controlnets[rows.name].halvings, strict=True):
            if halvings is None:
                seen.append(whole)
                continue
            own_BCHW = patches.at(halvings).cut(whole, context.axis.index)
            seen.append(own_BCHW.contiguous(memory_format=context.memory_format))
        return ControlRows(rows.name, tuple(seen), rows.scale.to(self.unet.dtype).view(-1, 1, 1, 1))

    def _read_masks(self, references: Sequence[ReferenceRows]) -> None:
        """Compute the masks of references for every resolution, into the place of those that are there."""
        context = self._context
        for number, reference in enumerate(references):
            if reference.mask is None:
                continue
            for halvings in range(len(self.unet.config.block_out_channels)):
                patches, index = context.patches.at(halvings), context.axis.index
                mask_BT1 = token_mask(reference.mask, patches, index, split=context.split).to(self.unet.dtype)
                put(context.text, mask_place(number, halvings), (mask_BT1,))

    def _keep(self, shape: Hashable, axis: Axis, batch: int, height: int, width: int) -> KeptShape:
        exchange = Exchange(axis)
        what = f"{batch} latents of {height}x{width}" if batch > 1 else f"a latent of {height}x{width}"
        make_room = partial(self.shapes.drop_recordings, but=shape)
        return KeptShape(exchange, Replays(what, exchange, self.shapes.recorder, self._spans, make_room))

    def __call__(self, latent_BCHW: Tensor, timestep: Tensor, evaluation: Evaluation) -> Tensor:
        """This rank's patch of the noise prediction.

        Args:
            latent_BCHW: the whole scaled latent, equal on all ranks of the axis, in the network's dtype.
            timestep: as the scheduler has it, a float where it is one.
            evaluation: synchronous or displaced; a displaced one must follow one that published.

        Communication: see the layers. Blocks on the other ranks in the synchronous phase.
        """
        if self._conditions is None:
            raise AssertionError("begin comes before the first evaluation")
        context, conditions = self._context, self._conditions
        context.evaluation, context.keep = (
            (EXACT, Keep.of(evaluation)) if self._residual else (evaluation, Keep.NOTHING)
        )

        steering = self._control

        def compute(
            latent_BCHW: Tensor, time: Tensor, pooled_BC: Tensor, time_ids_B6: Tensor, *control: Tensor
        ) -> Tensor:
            patch = context.patches.cut(latent_BCHW, context.axis.index)
            patch_BCHW = patch.contiguous(memory_format=context.memory_format)
            added = {"text_embeds": pooled_BC, "time_ids": time_ids_B6}
            # Without what a network for inpainting reads beside it.
            own_BCHW = patch_BCHW[:, : self.unet.config.out_channels].contiguous(memory_format=context.memory_format)
            inputs = iter(control)
            steered = added_up(
                [
                    self._controlnets[rows.name](own_BCHW, time, conditions.text, added, rows.of(inputs))
                    for rows in steering
                ]
            )
            (noise_BCHW,) = self.unet(
                patch_BCHW,
                time,
                encoder_hidden_states=conditions.text,
                added_cond_kwargs=added,
                down_block_additional_residuals=steered.down,
                mid_block_additional_residual=steered.middle,
                down_intrablock_additional_residuals=steered.within,
                return_dict=False,
            )
            return torch.as_tensor(noise_BCHW).contiguous()

        own = (conditions.pooled, conditions.time_ids, *(tensor for rows in steering for tensor in rows.tensors))
        if self._replays is None:
            noise_BCHW = compute(latent_BCHW, timestep, *own)
        else:
            inputs = (latent_BCHW, _on(latent_BCHW.device, timestep), *own)
            noise_BCHW = self._replays.evaluate(evaluation, inputs, compute, reads=conditions.kind)
        context.exchange.end_evaluation()
        self.shapes.drop_surplus()
        return noise_BCHW

    def end(self) -> None:
        """Wait for messages in flight and forget the image; its buffers stay for the next of that shape."""
        context = self._context
        context.exchange.drain()
        # Those of the image may be dropped for another network's.
        context.exchange, context.residuals, context.references = Exchange(axis_of_one()), Residuals(), ()
        context.text, self._conditions, self._replays, self._texts, self._control = {}, None, None, {}, ()

    def free(self) -> None:
        """Forget the image, and drop all that is kept from one to the next."""
        self.end()
        self.shapes.clear()

    def remove(self) -> None:
        """Restore the plain network."""
        self.free()
        self._layers.remove()
        for controlnet in self._controlnets.values():
            controlnet.remove()
        self._controlnets = {}


def unit_of(unet: Any) -> int:
    """Latent rows that stay on one rank, so that every stride-2 layer starts on an even row."""
    return 1 << (len(unet.config.block_out_channels) - 1)


def patches_of(
    unet: Any, height: int, width: int, count: int, *, most_work: float = MOST_WORK, window: int | None = None
) -> Patches:
    """How a latent is split among so many ranks, for this network.

    Within windows no tokens are handed on: theirs lie where another rank's do not, and pictures that are large enough
    for windows have units enough for all.

    Raises:
        TooManyRanks: the latent has fewer units than there are ranks.
    """
    patches = split(height, width, count, unit=unit_of(unet))
    if windows_of(patches, window, 0) is not None:
        return patches
    rows_share = arithmetic.of_unet(unet, height, width).rows_share
    return replace(patches, balance=TokenBalance(rows_share, most_work))


def _on(device: torch.device, timestep: Tensor | float) -> Tensor:
    """A timestep as one float32 on a device, which is what the network makes of any; waits for no device."""
    if isinstance(timestep, Tensor) and timestep.device == device:
        return timestep.to(torch.float32)
    # A number from the host is an argument of a kernel; copied from there as a tensor it would be waited for.
    return torch.full((), float(timestep), dtype=torch.float32, device=device)
