"""Reference pictures as further cross-attention: what a layer attends to beside the text, and for which of its tokens.

An IP-Adapter (Ye et al. 2023, section 3.2.2): the queries of a layer attend to a picture's tokens by keys and values of
their own, and what comes out is added to what the text gives.
"""

# B rows, N tokens of a reference, T tokens of this rank's patch, C channels, D numbers of a text's or a picture's token

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distri.ranks.patches import Patches


@dataclass(frozen=True)
class ReferenceRows:
    """One reference of each row of an evaluation.

    Attributes:
        name: of the adapter; where it is equal, so are the projections.
        projections: by the name of a layer, the weights that make keys and values of tokens, CD each.
        tokens: BND, of the pictures, or of none in the negative half.
        scales: B11, what the layers' output is multiplied with.
        mask: B1HW of the whole picture, in pixels, 1 where the reference counts and 0 where it does not; None is
            everywhere.
    """

    name: str
    projections: Mapping[str, tuple[Tensor, Tensor]]
    tokens: Tensor
    scales: Tensor
    mask: Tensor | None = None

    @property
    def kind(self) -> Hashable:
        """What rows that are evaluated together must have in common."""
        return self.name, self.tokens.shape[1], self.mask is not None

    def keys_and_values(self, site: str) -> tuple[Tensor, Tensor]:
        """Those of a layer, BNC each. Values are scaled: then so is what attention makes of them."""
        of_keys_CD, of_values_CD = self.projections[site]
        values_BNC = functional.linear(self.tokens, of_values_CD) * self.scales
        return functional.linear(self.tokens, of_keys_CD), values_BNC


def references_together(parts: Sequence[tuple[ReferenceRows, ...]]) -> tuple[ReferenceRows, ...]:
    """The references of several rows as those of one batch; all have as many, of equal kinds."""
    return tuple(_joined(rows) for rows in zip(*parts, strict=True))


def _joined(rows: Sequence[ReferenceRows]) -> ReferenceRows:
    first = rows[0]
    if len(rows) == 1:
        return first
    if any(one.kind != first.kind for one in rows):
        raise AssertionError(f"references of several kinds in one evaluation: {[one.kind for one in rows]}")
    masks = [one.mask for one in rows if one.mask is not None]
    return ReferenceRows(
        first.name,
        first.projections,
        torch.cat([one.tokens for one in rows]),
        torch.cat([one.scales for one in rows]),
        torch.cat(masks) if masks else None,
    )


def place_of(site: str, number: int) -> str:
    """Where a layer's keys and values of a reference are kept beside those of the text."""
    return f"{site}, reference {number}"


def mask_place(number: int, halvings: int) -> str:
    """Where the mask of a reference is kept, for the layers after so many stride-2 layers."""
    return f"mask of reference {number} after {halvings} halvings"


def put(places: dict[str, tuple[Tensor, ...]], name: str, fresh: tuple[Tensor, ...]) -> None:
    """Keep tensors under a name: in the place of those that are there, from which recordings read."""
    for place, value in zip(places.setdefault(name, fresh), fresh, strict=True):
        if place is not value:
            place.copy_(value)


def token_mask(mask_B1HW: Tensor, patches: Patches, index: int, *, split: bool) -> Tensor:
    """How much a reference counts for each token that a rank computes, BT1. No communication.

    As diffusers' `IPAdapterMaskProcessor.downsample`: bicubic, so that it passes 0 and 1 a little at edges.

    Args:
        mask_B1HW: of the whole picture.
        patches: at the layers' resolution.
        index: place of the rank among those that share the picture.
        split: whether any others do.
    """
    size = patches.height, patches.width
    whole_B1HW = functional.interpolate(mask_B1HW.float(), size=size, mode="bicubic", align_corners=False)
    if not split:
        return whole_B1HW.flatten(1)[..., None]
    by_rank = [patches.cut(whole_B1HW, place).flatten(1)[..., None] for place in range(patches.count)]
    parts: dict[int, Sequence[Tensor]] = {}  # of each rank, what it keeps and what it hands on, in the order of moves
    for origin, tokens_BT1 in enumerate(by_rank):
        moved = [move.tokens for move in patches.moves if move.origin == origin]
        parts[origin] = tokens_BT1.split_with_sizes([tokens_BT1.shape[1] - sum(moved), *moved], dim=1)
    taken = []
    for origin in range(patches.count):
        destinations = [move.destination for move in patches.moves if move.origin == origin]
        taken += [
            part for destination, part in zip(destinations, parts[origin][1:], strict=True) if destination == index
        ]
    return torch.cat([parts[index][0], *taken], dim=1)
