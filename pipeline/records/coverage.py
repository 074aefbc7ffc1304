"""The proof that every image of a batch has exactly one outcome: a bit for each, and a count."""

from __future__ import annotations

from collections.abc import Iterator


class Coverage:
    """Which images of a batch have an outcome so far. A million of them take 125 KB."""

    def __init__(self, images: int) -> None:
        self.images = images
        self._left = images
        self._bits = bytearray((images + 7) // 8)

    def add(self, index: int) -> bool:
        """Record the outcome of an image; False if it has one already, or is none of the batch."""
        if not 0 <= index < self.images:
            return False
        byte, bit = index >> 3, 1 << (index & 7)
        if self._bits[byte] & bit:
            return False
        self._bits[byte] |= bit
        self._left -= 1
        return True

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.images and bool(self._bits[index >> 3] & (1 << (index & 7)))

    @property
    def left(self) -> int:
        """How many images have no outcome."""
        return self._left

    def missing(self) -> Iterator[int]:
        """The images without an outcome, by their index, in order."""
        return (index for index in range(self.images) if index not in self)
