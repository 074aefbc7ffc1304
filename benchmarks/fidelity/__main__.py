"""`python -m benchmarks.fidelity`: render every variation by real ranks, compare, and write docs/fidelity.md.

What is rendered already is kept in the work folder, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engine.__main__ import machine
from benchmarks.fidelity import measures, page
from benchmarks.fidelity.inputs import DEMONSTRATORS, judged
from benchmarks.fidelity.variations import DEFAULT, SIDE_PX, VARIATIONS, Variation, prompts
from distri.ranks.patches import split

ROOT = Path(__file__).parents[2]
FACTORS = tuple(dict.fromkeys(one.factor for one in VARIATIONS if one is not DEFAULT))
UNIT = 4  # latent rows that stay together: 32 px


def main() -> None:
    """Measure all variations, or those of some factors."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "demo", help="an SDXL directory; %(default)s")
    parser.add_argument("--work", type=Path, default=Path("/tmp/tessera-fidelity"), help="where renders are kept")  # noqa: S108
    parser.add_argument("--out", type=Path, default=ROOT, help="where docs/ and benchmarks/results/ are written")
    parser.add_argument("--images", type=int, default=DEFAULT.images, help="at most, per variation; to try it out")
    parser.add_argument("--steps", type=int, default=DEFAULT.steps, help="at most, per variation; to try it out")
    parser.add_argument(
        "--factors", nargs="+", choices=FACTORS, default=FACTORS, help="beside the default; all of them"
    )
    parser.add_argument("--add", action="store_true", help="put these factors into the results that are there")
    arguments = parser.parse_args()
    if not (arguments.model / "model_index.json").exists():
        parser.error(f"{arguments.model} holds no model; `python -m training WORK models/demo` makes it")
    wanted = [
        one.shortened(arguments.images, arguments.steps)
        for one in VARIATIONS
        if one.factor in arguments.factors or (one is DEFAULT and not arguments.add)
    ]
    (added if arguments.add else measured)(arguments.model, arguments.work, arguments.out, wanted)


def measured(model: Path, work: Path, out: Path, variations: list[Variation]) -> dict[str, Any]:
    """Render, compare and write; returns what the result file holds."""
    work = work / digest(model)
    work.mkdir(parents=True, exist_ok=True)
    figures, shown = [], []
    all_now = render(model, work, [one for variation in variations for one in (variation.reference, variation)])
    for variation in variations:
        one, many = pictures_of(work, variation.reference), pictures_of(work, variation)
        figures.append(_compared(variation, one, many))
        if variation.factor == DEFAULT.factor:
            shown = list(zip(prompts(len(many)), one, many, strict=False))
    times = os.times()
    results = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.fidelity", *sys.argv[1:]]),
        **machine(),
        "side_px": SIDE_PX,
        # Of a run that went on where an earlier one was stopped, nobody knows the whole.
        "cpu_minutes": (times.children_user + times.children_system) / 60 if all_now else None,
        "default": variations[0].described(),
        "variations": figures,
    }
    file = out / "benchmarks" / "results" / "fidelity.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    (out / "docs").mkdir(exist_ok=True)
    page.write(out / "docs" / "fidelity.md", out / "docs" / "pictures", results, shown)
    return results


def added(model: Path, work: Path, out: Path, variations: list[Variation]) -> dict[str, Any]:
    """Render and compare these, and write them into the results of an earlier run, each with its own date."""
    work = work / digest(model)
    work.mkdir(parents=True, exist_ok=True)
    file = out / "benchmarks" / "results" / "fidelity.json"
    results: dict[str, Any] = json.loads(file.read_text())
    for variation in variations:
        render(model, work, [variation.reference, variation])
        row = _compared(variation, pictures_of(work, variation.reference), pictures_of(work, variation))
        row["measured"] = datetime.now(UTC).isoformat(timespec="seconds")
        same = (variation.factor, variation.value)
        others = [one for one in results["variations"] if (one["factor"], one["value"]) != same]
        results["variations"] = sorted([*others, row], key=_place)
        file.write_text(json.dumps(results, indent=1) + "\n")
    names = prompts(results["default"]["images"])
    page.write(out / "docs" / "fidelity.md", out / "docs" / "pictures", results, [(name, None, None) for name in names])
    return results


def render(
    model: Path, work: Path, variations: Iterable[Variation], program: Sequence[str] = ("benchmarks.fidelity.ranks",)
) -> bool:
    """Render what is not there yet; one start of the ranks for all variations of a number of ranks.

    Args:
        model, work: where the model is, and where renders are kept.
        variations: what to render.
        program: the module that each rank runs, and what is handed to it before the model.

    Returns:
        Whether that was all of them.
    """
    missing: dict[int, list[str]] = {}
    all_now = True
    for variation in variations:
        note = work / f"{variation.name}.json"
        described = json.dumps(variation.described())
        if not (note.exists() and note.read_text() == described and note.with_suffix(".npz").exists()):
            note.with_suffix(".npz").unlink(missing_ok=True)
            note.write_text(described)
            missing.setdefault(variation.ranks, []).append(str(note))
        else:
            all_now = False
    for ranks, notes in missing.items():
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [*launch, "-m", *program, str(model), *dict.fromkeys(notes)]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return all_now


def pictures_of(work: Path, variation: Variation) -> Any:
    """N x height x width x 3, uint8."""
    return np.load(work / f"{variation.name}.npz")["pixels"]


def _compared(variation: Variation, one: Any, many: Any) -> dict[str, Any]:
    pairs = [tuple(judged(pixels, variation.begun) for pixels in pair) for pair in zip(many, one, strict=False)]
    patches = split(variation.side_px // 8, variation.side_px // 8, variation.ranks, unit=UNIT)
    return {
        **variation.described(),
        "psnr_db": [finite(measures.psnr(picture, reference)) for picture, reference in pairs],
        "ssim": [measures.ssim(picture, reference) for picture, reference in pairs],
        "seam": [measures.seam(picture, reference, patches) for picture, reference in pairs],
    }


def _place(row: dict[str, Any]) -> int:
    """Where a row stands in the tables; last, if nobody asks for it any more."""
    named = [(one.factor, one.value) for one in VARIATIONS]
    return named.index((row["factor"], row["value"])) if (row["factor"], row["value"]) in named else len(named)


def digest(model: Path) -> str:
    """Short, of the weights and of the demonstrators': renders of others must not be taken for theirs."""
    whole = hashlib.sha256()
    folders = model, DEMONSTRATORS / "canny", DEMONSTRATORS / "scene"
    for path in (path for folder in folders for path in sorted(folder.rglob("*.safetensors"))):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


def finite(value: float) -> float | None:
    """JSON knows no infinity: None is that of equal pictures."""
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
