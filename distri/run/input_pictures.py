"""Pictures that images begin with: the leader fetches them ahead, checks them, and hands them to its replica."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image

from distri.model.image import Pixels
from distri.ranks.mesh import Mesh
from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import StoreUnavailable, TesseraError
from pipeline.inputs.plain import MAX_BYTES
from pipeline.picture import InputPicture
from pipeline.records.object_keys import BatchObjects

KEPT_BYTES = 256 << 20  # of PNGs: many rows of a batch may begin with one


class InputLost(TesseraError):
    """The picture that an image begins with is not there, or is not the one that was accepted."""


class InputPictures:
    """Reads them from the batch's folder, in the background."""

    def __init__(self, artifacts: Artifacts, objects: BatchObjects) -> None:
        self._artifacts, self._objects = artifacts, objects
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="inputs")
        self._asked: OrderedDict[str, Future[bytes]] = OrderedDict()

    def ahead(self, picture: InputPicture | None) -> None:
        """Begin to read a picture that will be asked for."""
        if picture is None:
            return
        if picture.sha256 not in self._asked:
            self._asked[picture.sha256] = self._reader.submit(self._read, picture)
        self._asked.move_to_end(picture.sha256)
        done = [one.result() for one in self._asked.values() if one.done() and one.exception() is None]
        surplus = sum(map(len, done)) - KEPT_BYTES
        for sha256, one in list(self._asked.items())[:-2]:  # the one at hand and the next stay
            if surplus > 0 and one.done() and one.exception() is None:
                surplus -= len(self._asked.pop(sha256).result())

    def has(self, picture: InputPicture) -> bool:
        """Whether `png` would answer at once."""
        asked = self._asked.get(picture.sha256)
        return asked is not None and asked.done()

    def png(self, picture: InputPicture) -> bytes:
        """A picture's file. Blocks. Raises InputLost; StoreUnavailable, after which it may be asked for again."""
        self.ahead(picture)
        try:
            return self._asked[picture.sha256].result()
        except (InputLost, StoreUnavailable):
            del self._asked[picture.sha256]
            raise

    def _read(self, picture: InputPicture) -> bytes:
        key = self._objects.input_picture(picture.sha256)
        body = self._artifacts.get(key, MAX_BYTES)
        if body is None:
            raise InputLost(f"{key} is gone from {self._artifacts.where}; put the object back, and retry")
        if hashlib.sha256(body).hexdigest() != picture.sha256:
            raise InputLost(f"{key} is not what was accepted ({len(body):,} bytes); put the object back, and retry")
        try:
            _pixels(body, picture)
        except ValueError as error:
            raise InputLost(f"{key}: {error}") from error
        return body


def shared_pixels(mesh: Mesh, picture: InputPicture | None, png: bytes) -> Pixels | None:
    """The pixels on all ranks of a replica, from the leader's file; None if there is no picture. Blocks."""
    return None if picture is None else _pixels(mesh.broadcast_bytes(png), picture)


def _pixels(png: bytes, picture: InputPicture) -> Pixels:
    """Height x width x 3. Raises ValueError if they are not those of the picture."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if (image.size, image.mode) != ((picture.width, picture.height), "RGB"):
                found = f"a PNG of {image.width}x{image.height} {image.mode}"
                raise ValueError(f"{found} found; {picture.width}x{picture.height} RGB wanted")
            return np.array(image, np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no PNG that can be read: {error}") from error
