"""`python -m benchmarks.highres`: paint the same prompts in several ways, read the pictures, write the figures.

Pictures are kept in the work folder as they are painted, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.engine.__main__ import machine
from benchmarks.highres import measures
from benchmarks.highres.ways import ways
from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.model.passes.stages import Highres
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from training import adherence
from training.lights import lights
from training.scenes import Scene

ROOT = Path(__file__).parents[2]
BATCH = 4
GUIDANCE = 5.0


def main() -> None:
    """Paint what is missing, read all, and write the figures of these ways into benchmarks/results/highres.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "demo", help="an SDXL folder; %(default)s")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "tessera-highres", help="where pictures are kept"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "highres.json")
    parser.add_argument("--ways", nargs="+", choices=ways(0), default=list(ways(0)), help="all")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--native-px", type=int, default=256, help="the model's own side; %(default)s")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--known", type=int, default=300, help="training scenes that the reader is made of")
    asked = parser.parse_args()
    scenes = adherence.held_out(asked.prompts)
    wanted = {name: ways(asked.native_px)[name] for name in asked.ways}
    folder = asked.work / f"{asked.side}-{asked.steps}"
    settings = EngineSettings(exact=True, native_px=asked.native_px)
    engine = Engine.load(asked.model, Mesh.single(), dtype=torch.float32, settings=settings)
    _paint(engine, folder, [_spec(scene, number, asked) for number, scene in enumerate(scenes)], wanted)
    reader = adherence.Reader(asked.side, asked.side, known=asked.known)
    command = f"python -m benchmarks.highres --prompts {asked.prompts} --side {asked.side} --ways {shlex.join(wanted)}"
    common = {"side_px": asked.side, "native_px": asked.native_px, "steps": asked.steps, "prompts": asked.prompts}
    made = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "command": command, **machine()}
    found = {
        name: made | _read(folder, name, scenes, reader, asked.native_px if highres.window_px else None)
        for name, highres in wanted.items()
    }
    sizes = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    before = sizes.get(str(asked.side), {})
    same = {name: before.get(name) for name in common} == common
    sizes[str(asked.side)] = common | {"ways": (before["ways"] if same else {}) | found}
    asked.out.write_text(json.dumps(sizes, indent=1) + "\n")


def _spec(scene: Scene, number: int, asked: argparse.Namespace) -> ImageSpec:
    return ImageSpec(adherence.prompt(scene), None, number, asked.side, asked.side, asked.steps, GUIDANCE)


def _paint(engine: Engine, folder: Path, specs: Sequence[ImageSpec], wanted: dict[str, Highres]) -> None:
    """All ways of a few prompts, then the next ones, so that a run that is stopped has pictures to compare."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(specs), BATCH):
        numbers = range(first, min(first + BATCH, len(specs)))
        for name, highres in wanted.items():
            missing = [number for number in numbers if not _file(folder, name, number).exists()]
            if not missing:
                continue
            began = time.process_time()
            images = [replace(specs[number], highres=highres) for number in missing]
            painted = engine.render_batch(images, control=lambda: Control.GO)
            spent_s = (time.process_time() - began) / len(missing)
            for number, one in zip(missing, painted, strict=True):
                file = _file(folder, name, number)
                file.with_suffix(".json").write_text(json.dumps({"cpu_s": spent_s}))
                assert one.pixels is not None
                Image.fromarray(one.pixels).save(file)  # last: what is there is whole
            print(f"{name} {numbers.start} to {numbers.stop - 1}: {spent_s:.1f} s a picture", flush=True)


def _read(
    folder: Path, name: str, scenes: Sequence[Scene], reader: adherence.Reader, window_px: int | None
) -> dict[str, Any]:
    """The figures of one way: how many have each trait as named and one light, and what its windows' borders show.

    `window_px`: side of its windows; None is none. Their borders are compared with `refine`'s pictures.
    """
    pictures = list(_pictures(folder, name, len(scenes)))
    named = [adherence.wanted(scene) for scene in scenes]
    right = [found == own for found, own in zip(map(reader.read, pictures), named, strict=True)]
    shares = adherence.scored([reader.read(one) for one in pictures], named)
    spent = [
        json.loads(_file(folder, name, number).with_suffix(".json").read_text())["cpu_s"]
        for number in range(len(scenes))
    ]
    return {
        **{trait: round(share * len(scenes)) for trait, share in shares.items()},
        "right": right,
        "one light": sum(lights(one) == 1 for one in pictures),
        **({} if window_px is None else _seams(pictures, _pictures(folder, "refine", len(scenes)), window_px)),
        "detail": [measures.detail(one) for one in pictures],
        "cpu_s": float(np.median(spent)),
    }


def _seams(pictures: Iterable[adherence.Picture], whole: Iterable[adherence.Picture], window_px: int) -> dict[str, Any]:
    """How steep pictures are across borders, wherever layers may have them, and where none has, beside others."""
    pairs = list(zip(pictures, whole, strict=True))
    side = len(pairs[0][0])
    return {
        "seam": [
            [measures.seam(*pair, measures.borders(side, window_px, quarters)) for quarters in range(measures.QUARTERS)]
            for pair in pairs
        ],
        "seam elsewhere": [measures.seam(*pair, measures.borders(side, window_px, 0.5)) for pair in pairs],
    }


def _pictures(folder: Path, name: str, count: int) -> Iterator[adherence.Picture]:
    for number in range(count):
        with Image.open(_file(folder, name, number)) as image:
            yield np.asarray(image)


def _file(folder: Path, name: str, number: int) -> Path:
    return folder / f"{number:03d}-{name}.png"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
