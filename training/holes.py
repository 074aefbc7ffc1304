"""`python -m training.holes MODEL`: large holes in the renderer's pictures, filled at once and in rounds.

A part of a held-out scene's picture is hidden, and the model paints it anew from the prompt that names all traits and
from what is left. Read from the whole picture: whether it shows the traits (`training.adherence`), and whether the edge
of the hole can be seen: the mean step across it, through the mean of the steps beside it on both sides.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Inpaint, StartPicture
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from training.adherence import KNOWN, Picture, Reader, held_out, prompt, scored, wanted
from training.paint import painted

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Filled:
    """A picture whose hole is filled.

    Attributes:
        picture: whole.
        hole: 255 where it was hidden.
        evaluations: of the network, guided ones once.
    """

    picture: Picture
    hole: Mask
    evaluations: int


def holes(side: int) -> list[Mask]:
    """Half of the picture on each of four sides, and six tenths of it in the middle."""
    found = [np.zeros((side, side), np.uint8) for _ in range(5)]
    half, margin = side // 2, round(side * (1 - 0.6**0.5) / 2)
    found[0][:, half:] = found[1][:, :half] = found[2][half:] = found[3][:half] = 255
    found[4][margin:-margin, margin:-margin] = 255
    return found


def fill(
    engine: Engine, side: int, prompts: int, *, rounds: int, steps: int, guidance_scale: float, first: int = 0
) -> list[Filled]:
    """The pictures of so many held-out scenes from `first` on, each with the next of the holes, filled."""
    found, masks = [], holes(side)
    for number, scene in enumerate(held_out(first + prompts)[first:], first):
        hole = masks[number % len(masks)]
        start = StartPicture(
            side, side, 1.0, pixels=painted(scene, side, side), inpaint=Inpaint(mask=hole, rounds=rounds)
        )
        spec = ImageSpec(prompt(scene), None, number, side, side, steps, guidance_scale, picture=start)
        made = engine.render(spec, control=lambda: Control.GO)
        if made.pixels is None:
            raise AssertionError("one rank has the picture")
        found.append(Filled(made.pixels, hole, made.evaluations.synchronous + made.evaluations.displaced))
    return found


def seam(filled: Filled) -> float:
    """Mean step of the levels across the hole's edge, through that of steps a few pixels beside it."""
    levels, inside = filled.picture.astype(np.float64), filled.hole > 0
    across, beside = list[float](), list[float]()
    for axis in (0, 1):
        steps = np.abs(np.diff(levels, axis=axis)).mean(axis=2)
        edge = np.diff(inside.astype(int), axis=axis) != 0
        across += steps[edge].tolist()
        for away in (-6, -5, -4, 4, 5, 6):
            moved = np.roll(edge, away, axis=axis)
            beside += steps[moved & ~edge].tolist()
    return float(np.mean(across) / np.mean(beside))


def figures(filled: Sequence[Filled], reader: Reader, first: int = 0) -> dict[str, float]:
    """Shares of the traits that are right, the seam in the mean, and what it took."""
    named = [wanted(scene) for scene in held_out(first + len(filled))[first:]]
    traits = scored([reader.read(one.picture) for one in filled], named)
    evaluations = sum(one.evaluations for one in filled) / len(filled)
    return traits | {"seam": float(np.mean([seam(one) for one in filled])), "evaluations": evaluations}


def main() -> None:
    """Figures as JSON by what was asked for: ROUNDSxSTEPS."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("ways", nargs="*", default=["1x25", "1x73", "4x25"], help="ROUNDSxSTEPS")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--known", type=int, default=KNOWN, help="training scenes that the reader's means come from")
    asked = parser.parse_args()
    settings = EngineSettings(exact=True, native_px=asked.side)
    engine = Engine.load(asked.model, Mesh.single(), dtype=torch.float32, settings=settings)
    reader = Reader(asked.side, asked.side, known=asked.known)
    found = {}
    for way in asked.ways:
        rounds, steps = map(int, way.split("x"))
        began = time.process_time()
        filled = fill(
            engine,
            asked.side,
            asked.prompts,
            rounds=rounds,
            steps=steps,
            guidance_scale=asked.guidance_scale,
            first=asked.first,
        )
        spent_s = (time.process_time() - began) / len(filled)
        found[way] = figures(filled, reader, asked.first) | {"cpu_s": round(spent_s, 2)}
        sys.stderr.write(f"{way}: {json.dumps(found[way])}\n")
    original = [
        Filled(painted(scene, asked.side, asked.side), holes(asked.side)[number % 5], 0)
        for number, scene in enumerate(held_out(asked.first + asked.prompts))
        if number >= asked.first
    ]
    found["renderer"] = figures(original, reader, asked.first)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
