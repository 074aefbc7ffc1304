"""One rank of some variations, started by torchrun: `python -m benchmarks.fidelity.ranks MODEL VARIATION.json...`."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.fidelity.variations import Variation, images
from distri.engine import Engine
from distri.ranks.mesh import Layout, Mesh
from distri.sampling.control import Control

BATCH = 8  # images at a time: each comes out as it would alone, and the ranks' messages are fewer


def main() -> None:
    """Render every variation named; the leader writes the pictures of each as one array beside its description."""
    model, notes = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    variations = [Variation.of(json.loads(note.read_text())) for note in notes]
    torch.set_num_threads(1)
    mesh = Mesh.join(Layout(1, 1, variations[0].ranks), device="cpu", timeout=timedelta(minutes=10))
    for note, variation in zip(notes, variations, strict=True):
        pictures = _rendered(model, mesh, variation)
        if mesh.is_leader:
            unfinished = note.with_suffix(".unfinished.npz")
            np.savez(unfinished, pixels=np.stack(pictures))
            unfinished.rename(note.with_suffix(".npz"))
            print(f"{variation.factor} {variation.value}: {len(pictures)} pictures", flush=True)
    mesh.leave()


def _rendered(model: Path, mesh: Mesh, variation: Variation) -> list[npt.NDArray[np.uint8]]:
    """All pictures on the leader, none elsewhere."""
    engine = Engine.load(model, mesh, dtype=torch.float32, settings=variation.settings)
    wanted = images(variation)
    # A resync is decided for a batch as a whole: then each image has to be one.
    size = 1 if variation.resync is not None else BATCH
    batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    rendered = [one for batch in batches for one in engine.render_batch(batch, control=lambda: Control.GO)]
    return [one.pixels for one in rendered if one.pixels is not None]


if __name__ == "__main__":
    main()
