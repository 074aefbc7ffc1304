"""Numbers of things, as people say them."""

from __future__ import annotations


def counted(number: int, one: str, several: str = "") -> str:
    """`1 image`, `1,200 images`; `several` where an s at the end is not enough."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def rows_and_images(rows: int, images: int) -> str:
    """`8 rows, 9 images`."""
    return f"{counted(rows, 'row')}, {counted(images, 'image')}"
