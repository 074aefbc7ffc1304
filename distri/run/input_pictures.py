"""Pictures that images begin with: the leader fetches them ahead, and checks them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from distri.run.input_pixels import InputLost, pixels_of
from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import StoreUnavailable
from pipeline.input_picture import InputPicture
from pipeline.inputs.plain import MAX_BYTES
from pipeline.records.object_keys import BatchObjects

KEPT_BYTES = 256 << 20  # of PNGs: many rows of a batch may begin with one


class InputPictures:
    """Reads them from the batch's folder, in the background."""

    def __init__(self, artifacts: Artifacts, objects: BatchObjects) -> None:
        self._artifacts, self._objects = artifacts, objects
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="inputs")
        self._asked: OrderedDict[str, Future[bytes]] = OrderedDict()

    def ahead(self, picture: InputPicture) -> None:
        """Begin to read a picture that will be asked for."""
        if picture.sha256 not in self._asked:
            self._asked[picture.sha256] = self._reader.submit(self._read, picture)
        self._asked.move_to_end(picture.sha256)
        done = [one.result() for one in self._asked.values() if one.done() and one.exception() is None]
        surplus = sum(map(len, done)) - KEPT_BYTES
        for sha256, one in list(self._asked.items())[:-4]:  # those at hand and the next stay, each with its mask
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
            pixels_of(body, picture)
        except ValueError as error:
            raise InputLost(f"{key}: {error}") from error
        return body
