"""Pictures that images begin with: the leader hands their files to its replica, and each rank reads the pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from PIL import Image

from distri.model.image import Pixels
from distri.ranks.mesh import Mesh
from pipeline.bucket.opened import opened
from pipeline.errors import TesseraError
from pipeline.input_picture import InputPicture


class InputLost(TesseraError):
    """The picture that an image begins with is not there, or is not the one that was accepted."""


KEPT_BYTES = 64 << 20  # on each rank


class SharedPixels:
    """Pixels of pictures on all ranks of a replica, which ask for them alike.

    The last ones are kept, and nobody writes into them: rows of a batch often share a picture.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh, self._kept = mesh, OrderedDict[str, Pixels]()

    def of(self, picture: InputPicture, png: Callable[[], bytes]) -> Pixels:
        """The pixels, from what `png` has on the leader if they are not kept. Blocks."""
        found = self._kept.pop(picture.sha256, None)
        if found is None:
            found = pixels_of(self._mesh.broadcast_bytes(png()), picture)
        self._kept[picture.sha256] = found
        while sum(one.nbytes for one in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return found


def pixels_of(png: bytes, picture: InputPicture) -> Pixels:
    """Height x width x 3, of a mask without the 3. Raises ValueError if they are not those of the picture."""
    try:
        with opened(png) as image:
            if (image.format, image.size, image.mode) != ("PNG", (picture.width, picture.height), picture.mode):
                found = f"a {image.format} of {image.width}x{image.height} {image.mode}"
                raise ValueError(f"{found} found; {picture.width}x{picture.height} {picture.mode} wanted")
            return np.array(image, np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no PNG that can be read: {error}") from error
