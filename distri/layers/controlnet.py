"""A control network on one rank's patch of the latent: what is added to the UNet's own activations.

The network is the down and middle blocks of a UNet (Zhang et al. 2023, "Adding Conditional Control to Text-to-Image
Diffusion Models"), so it is split as they are, in the same exchange. What it gives is of this rank's patch and is added
there.
"""

# B batch, C channels, H and W of the latent or of this rank's patch of it

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from distri.layers.context import Context
from distri.layers.plan import SplitLayers
from distri.layers.resolution import EMBEDDING, halvings_of
from distri.ranks.errors import Unsplittable


@dataclass(frozen=True)
class Residuals:
    """What is added to the UNet's activations, of this rank's patch.

    Attributes:
        down: to what its down blocks hand to the up blocks, one for each; by control networks.
        middle: to what its middle gives; likewise.
        within: to what each down block gives, and last to the middle; by T2I-Adapters.
    """

    down: list[Tensor] | None = None
    middle: Tensor | None = None
    within: list[Tensor] | None = None


@dataclass(frozen=True)
class Shown:
    """A picture that a network is shown.

    Attributes:
        picture: BCHW, whole, 0 to 1, 8 pixels a latent element along each side.
        scale: what it counts for, beside others that the same network is shown.
        mode: what it is, for a network of several kinds of pictures.
    """

    picture: Tensor
    scale: float = 1.0
    mode: int | None = None


@dataclass(frozen=True)
class ControlRows:
    """What one control network is given for a batch.

    Attributes:
        name: of the network.
        seen: what it makes of the pictures of the batch's rows by `embed`, whole.
        scale: B, what all that it gives is multiplied with.
    """

    name: str
    seen: tuple[Tensor, ...]
    scale: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in an order that `of` takes."""
        return (*self.seen, self.scale)

    def of(self, tensors: Iterator[Tensor]) -> ControlRows:
        """The same with the next of these tensors in the place of its own."""
        return ControlRows(self.name, tuple(next(tensors) for _ in self.seen), next(tensors))


class SplitControlNet:
    """A diffusers `ControlNetModel` whose evaluations are shared by the ranks that share the UNet's.

    Args:
        network: of SDXL's architecture.
        name: before the names of its layers in the exchange.
        context: the UNet's.

    Raises:
        Unsplittable: a part or a setting of it is not known. Nothing has been changed then.

    Attributes:
        halvings: the resolution of each tensor that `embed` gives, in stride-2 layers before it; None is no map.
        modes: how many kinds of pictures it knows; None is one, that has no number.
    """

    halvings: tuple[int | None, ...] = (0,)
    modes: int | None = None
    class_embed_type: str | None = None  # of the network

    def __init__(self, network: Any, name: str, context: Context) -> None:
        config = network.config
        for setting, known in (
            ("global_pool_conditions", False),
            ("controlnet_conditioning_channel_order", "rgb"),
            ("class_embed_type", self.class_embed_type),
            ("downsample_padding", 1),
        ):
            if (found := getattr(config, setting, known)) != known:
                raise Unsplittable(setting, "ControlNetModel", f"it is {found!r}; only {known!r}, SDXL's, is known")
        self.network = network
        self._context = context
        self._layers = SplitLayers(
            network, context, partial(halvings_of, network), prefix=f"{name}: ", plain=(EMBEDDING, "class_embedding")
        )
        network.controlnet_cond_embedding.forward = _as_given

    def embed(self, shown: Sequence[Shown]) -> tuple[Tensor, ...]:
        """What the network sees of one picture, in the latent's size.

        Every rank computes the whole of it, once a pass: a ten-thousandth of the work of one evaluation of SDXL.
        """
        (one,) = shown
        return (self.embedded(one.picture),)

    def embedded(self, picture_BCHW: Tensor) -> Tensor:
        """A picture in the latent's size, by the network's own convolutions."""
        embedding = self.network.controlnet_cond_embedding
        return torch.as_tensor(type(embedding).forward(embedding, picture_BCHW.to(self.network.dtype)))

    def __call__(
        self,
        latent_BCHW: Tensor,
        timestep: Tensor,
        text: Tensor,
        added: dict[str, Tensor],
        rows: ControlRows,
    ) -> Residuals:
        """What it adds to this rank's patch; trades at the sites of its layers.

        Args:
            latent_BCHW: this rank's patch.
            timestep, text, added: as the UNet has them.
            rows: the embedding's patch, what is added to the time's embedding if anything is, and scales of shape B111
                in the network's dtype.
        """
        embedding_BCHW, *more = rows.seen
        down, middle = self.network(
            latent_BCHW,
            timestep,
            encoder_hidden_states=text,
            controlnet_cond=embedding_BCHW,
            conditioning_scale=rows.scale,
            class_labels=more[0] if more else None,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return Residuals(list(down), middle)

    def read_text(self, text_BLC: Tensor) -> None:
        """Compute keys and values of a text for its layers, into the context."""
        self._layers.read_text(text_BLC)

    def remove(self) -> None:
        """Restore the plain network."""
        self._layers.remove()
        self.network.controlnet_cond_embedding.__dict__.pop("forward", None)


def added_up(residuals: Sequence[Residuals]) -> Residuals:
    """What several control networks add, in their order."""
    middles = [one.middle for one in residuals if one.middle is not None]
    return Residuals(
        _sums([one.down for one in residuals if one.down is not None]),
        reduce(add, middles) if middles else None,
        _sums([one.within for one in residuals if one.within is not None]),
    )


def _sums(lists: Sequence[list[Tensor]]) -> list[Tensor] | None:
    return [reduce(add, places) for places in zip(*lists, strict=True)] or None


def _as_given(embedding_BCHW: Tensor) -> Tensor:
    return embedding_BCHW
