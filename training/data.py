"""Scenes rendered once to arrays on disk, the same every time: seed `n` always has the same picture and size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.paint import painted
from training.scenes import drawn, twin

Size = tuple[int, int]  # width, height in pixels

# Square, landscape and portrait; multiples of 32, so that latents halve twice.
SHAPES: tuple[Size, ...] = ((8, 8), (8, 6), (6, 8), (8, 8), (8, 5), (5, 8))
DETAIL_SEEDS = 500_000  # the scenes that pieces are cut from begin here


def sizes(longer: int) -> tuple[Size, ...]:
    """The sizes that seeds go through in turn, for a longer side in pixels, a multiple of 64 or 128."""
    unit = longer // 8
    return tuple((round(w * unit / 32) * 32, round(h * unit / 32) * 32) for w, h in SHAPES)


def size_of(seed: int, longer: int) -> Size:
    """Which size the scene of a seed has."""
    turns = sizes(longer)
    return turns[seed % len(turns)]


def render(directory: Path, *, longer: int, count: int, processes: int = 2) -> Path:
    """Render the scenes of seeds 0 to `count` - 1 at sizes of that longer side; what is there already is kept.

    Returns:
        The folder: one `WxH.npy` per size, images x height x width x 3, uint8, in order of seeds.
    """
    folder = directory / f"pictures-{longer}"
    folder.mkdir(parents=True, exist_ok=True)
    for width, height in sorted(set(sizes(longer))):
        target = folder / f"{width}x{height}.npy"
        seeds = [seed for seed in range(count) if size_of(seed, longer) == (width, height)]
        if target.exists() and len(np.load(target, mmap_mode="r")) >= len(seeds):
            continue
        with ProcessPoolExecutor(processes) as pool:
            pictures = list(pool.map(_picture, seeds, [width] * len(seeds), [height] * len(seeds), chunksize=32))
        unfinished = folder / "unfinished.npy"
        np.save(unfinished, np.stack(pictures))
        unfinished.rename(target)
    return folder


def seeds_of(size: Size, longer: int, count: int) -> Sequence[int]:
    """The seeds below `count` in the order of that size's array."""
    return [seed for seed in range(count) if size_of(seed, longer) == size]


def _picture(seed: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    return painted(drawn(seed), width, height)


def render_twins(directory: Path, *, side: int, scenes: int, processes: int = 2) -> Path:
    """Render scenes with their light on the left and on the right, square; what is there already is kept.

    Returns:
        The array's file: 2 x scenes pictures, height x width x 3, uint8, in order of `scenes.twin`.
    """
    target = directory / f"pictures-twins-{side}.npy"
    if target.exists() and len(np.load(target, mmap_mode="r")) >= 2 * scenes:
        return target
    with ProcessPoolExecutor(processes) as pool:
        pictures = list(pool.map(_twin, range(2 * scenes), [side] * (2 * scenes), chunksize=32))
    unfinished = directory / "unfinished.npy"
    np.save(unfinished, np.stack(pictures))
    return unfinished.rename(target)


def _twin(number: int, side: int) -> npt.NDArray[np.uint8]:
    return painted(twin(number), side, side)


def render_details(directory: Path, *, scenes: int, pieces: int = 8, processes: int = 2) -> Path:
    """Render pieces of 256 x 256 px out of scenes drawn at 512 and 1024 px; what is there already is kept.

    Returns:
        The folder: `pictures.npy` (uint8), `seeds.npy`, and `sizes.npy`: what the model is told of each piece.
    """
    folder = directory / "pictures-details"
    if (folder / "sizes.npy").exists() and len(np.load(folder / "seeds.npy")) >= scenes * pieces:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [DETAIL_SEEDS + number for number in range(scenes)]
    with ProcessPoolExecutor(processes) as pool:
        cut = list(pool.map(_pieces, numbers, [pieces] * scenes))
    np.save(folder / "pictures.npy", np.concatenate([pictures for pictures, _ in cut]))
    np.save(folder / "seeds.npy", np.repeat(numbers, pieces))
    np.save(folder / "sizes.npy", np.concatenate([sizes for _, sizes in cut]))
    return folder


def _pieces(seed: int, pieces: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    side, piece = (512, 1024)[seed % 2], 256
    picture = painted(drawn(seed), side, side)
    lot = np.random.default_rng(seed)
    corners = lot.integers(0, (side - piece) // 8 + 1, size=(pieces, 2)) * 8
    pictures = np.stack([picture[top : top + piece, left : left + piece] for top, left in corners])
    sizes = np.array([[side, side, top, left, side, side] for top, left in corners], dtype=np.float32)
    return pictures, sizes
