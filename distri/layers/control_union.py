"""A ControlNet-Union: one control network for several kinds of pictures, and for several pictures at once.

Beside the layers of any control network it has an embedding for each kind, and a small transformer through which the
mean of a picture's embedding goes (Xin et al. 2024, ControlNet++; diffusers' `ControlNetUnionModel`). As diffusers
calls it, that transformer attends over the rows of the batch, which are equal for one image, and not over the
pictures: so all that it gives is known before the first evaluation. It is added to the embedding of the pictures and,
for the kinds, to that of the time. What is left is a control network like any other.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor

from distri.layers.context import Context
from distri.layers.controlnet import Shown, SplitControlNet


class SplitControlNetUnion(SplitControlNet):
    """A diffusers `ControlNetUnionModel` whose evaluations are shared; see `SplitControlNet`.

    One picture's scale multiplies all that the network gives, as with any control network. Several are scaled where the
    network sees them, and what it gives then is taken as it is.
    """

    halvings: tuple[int | None, ...] = (0, None)
    class_embed_type = "identity"

    def __init__(self, union: Any, name: str, context: Context) -> None:
        super().__init__(_as_controlnet(union), name, context)
        self._union = union
        self.modes = int(union.config.num_control_type)

    def embed(self, shown: Sequence[Shown]) -> tuple[Tensor, ...]:
        """What the network sees of its pictures, in the latent's size, and of their kinds, BE; once a pass."""
        union, maps, kinds = self._union, list[Tensor](), torch.zeros(self._union.config.num_control_type)
        for one in shown:
            if one.mode is None:
                raise AssertionError("a picture for a ControlNet-Union has a mode")
            scale = one.scale if len(shown) > 1 else 1.0
            embedded_BCHW = self.embedded(one.picture)
            mean_BC = embedded_BCHW.mean(dim=(2, 3)) + union.task_embedding[one.mode]
            sequence_1BC = (mean_BC * scale)[None]
            for layer in union.transformer_layes:
                sequence_1BC = layer(sequence_1BC)
            shift_BC = union.spatial_ch_projs(sequence_1BC[0])
            maps.append((embedded_BCHW + shift_BC[:, :, None, None]) * scale)
            kinds[one.mode] = 1
        # In diffusers the kinds have the text's dtype: 0 and 1 are the same in all.
        waves_1E = union.control_type_proj(kinds.to(union.device)).reshape(1, -1)
        return torch.stack(maps).sum(dim=0), union.control_add_embedding(waves_1E.to(union.dtype))


def _as_controlnet(union: Any) -> Any:
    """A `ControlNetModel` of the union's own layers, to whose embedding of the time a caller may add."""
    known = inspect.signature(ControlNetModel.__init__).parameters
    config: dict[str, Any] = {name: value for name, value in union.config.items() if name in known}
    with torch.device("meta"):
        network: Any = ControlNetModel(**config | {"class_embed_type": "identity"})
    for name, part in union.named_children():
        if hasattr(network, name):
            setattr(network, name, part)
    return network.eval()
