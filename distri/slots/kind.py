"""What images must have in common to be evaluated together."""

from collections.abc import Hashable
from dataclasses import dataclass

from distri.model.image import ImageSpec
from distri.slots.slot import Slot


@dataclass(frozen=True)
class Kind:
    """What passes of one table share, besides LoRAs.

    Attributes:
        height, width: of their latents.
        refines: whether their network is the refiner's.
        window: side of the windows that self-attention is computed in.
        control: the control networks that steer them.
        references: the kinds of pictures that they shall resemble.
    """

    height: int
    width: int
    refines: bool = False
    window: int | None = None
    control: tuple[str, ...] = ()
    references: tuple[Hashable, ...] = ()


def kinds_of(image: ImageSpec) -> tuple[Hashable, ...]:
    """The kinds of an image's references."""
    return tuple(reference.kind for reference in image.references)


@dataclass(frozen=True)
class Pass:
    """A pass that is to be denoised."""

    kind: Kind
    slot: Slot
