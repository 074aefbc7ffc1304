"""What norms know of the whole image while a patch is computed in strips (`distri.layers.strips`)."""

# B batch, C channels, H and W of a strip, G groups

from dataclasses import dataclass, field
from typing import NoReturn

from torch import Tensor


@dataclass(frozen=True)
class Strip:
    """Rows of a segment's input, and which of them are a strip's own.

    Attributes:
        rows: of all.
        first, end: of its own among them.
        place: of its own first row in the patch.
    """

    rows: Tensor
    first: int
    end: int
    place: int


class Unmeasured(Exception):
    """A strip has come to a norm whose moments are not known yet."""


@dataclass
class StripNorms:
    """What norms of a segment know of the whole image, and what strips have measured of the next one.

    Attributes:
        dim: the dimension that strips divide.
        known: the image's moments by the norm's name.
    """

    dim: int
    known: dict[str, Tensor] = field(default_factory=dict)
    strip: Strip | None = None
    noted: list[tuple[Tensor, int]] = field(default_factory=list)
    site: str | None = None

    def own(self, x_BCHW: Tensor) -> Tensor:
        """The strip's own rows of an activation, without what stands around them."""
        strip = self.strip
        if strip is None:
            raise RuntimeError("own rows are asked for within a strip")
        found, rows = x_BCHW.shape[self.dim], strip.rows.shape[self.dim]
        first, end = strip.first * found // rows, strip.end * found // rows
        return x_BCHW.narrow(self.dim, first, end - first)

    def measure(self, site: str, moments_2BG: Tensor, pixels: int) -> NoReturn:
        """Note a strip's moments of a norm; it does not return, since the strip can go no further."""
        self.site = site
        self.noted.append((moments_2BG, pixels))
        raise Unmeasured(site)
