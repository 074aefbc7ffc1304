"""`python -m training.demonstrators WORK MODEL TARGET`: a ControlNet and an IP-Adapter for the demo model, or go on.

Each in a folder of TARGET as other programs read it: `canny` and `scene`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from training import controlnet, data, denoiser, frozen, ip_adapter, traits
from training.loop import Plan
from training.stages import Stages

LIMIT_BYTES = 12_000_000
EDGED_PICTURES = {128: 8000, 256: 4800}  # by the longer side
SHOWN_PICTURES = {128: 4000, 256: 2400}  # the first of these
NAMED_PICTURES, NAMING_STEPS = 12_000, 1250
CONTROL = Plan(small_steps=3000, small_batch=8, large_steps=5000, large_batch=4)
CONTROL_EVENLY = Plan(small_steps=3000, small_batch=8, large_steps=9000, large_batch=4)  # goes on from there
REFERENCE = Plan(small_steps=300, small_batch=16, large_steps=100, large_batch=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder of pictures, latents, checkpoints and logs")
    parser.add_argument("model", type=Path, help="the directory of the demo model, models/demo say")
    parser.add_argument("target", type=Path, help="where the folders canny and scene are written, models say")
    parser.add_argument("--processes", type=int, default=2, help="that draw pictures")
    parser.add_argument("--share", type=float, default=1.0, help="of all pictures and steps; 0.01 tries it out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in another order would be another network
    make(arguments.work, arguments.model, arguments.target, processes=arguments.processes, share=arguments.share)


def make(work: Path, model: Path, target: Path, *, processes: int, share: float = 1.0) -> None:
    """All stages in order; each keeps what an earlier run has finished, and notes what it took in `stages.jsonl`."""

    def some(count: int, least: int = 12) -> int:
        return max(least, round(count * share))

    work.mkdir(parents=True, exist_ok=True)
    stages = Stages(work / "stages.jsonl")
    for longer, count in EDGED_PICTURES.items():
        data.render(work, longer=longer, count=some(count), processes=processes)
    stages.end("pictures")
    reader = frozen.vae(model)
    edged, seen = (
        {longer: denoiser.encode(work, reader, longer=longer, count=some(count)) for longer, count in counts.items()}
        for counts in (EDGED_PICTURES, SHOWN_PICTURES)
    )
    edges = {longer: [controlnet.edges(work, one, longer=longer) for one in sets] for longer, sets in edged.items()}
    stages.end("latents and edges")
    for one in (CONTROL, CONTROL_EVENLY):
        plan = Plan(some(one.small_steps, 1), one.small_batch, some(one.large_steps, 1), one.large_batch)
        controlnet.train(work, frozen.painter(model), plan, edges[128], edges[256], evenly=one is CONTROL_EVENLY)
    stages.end("ControlNet")
    traits.train(work, count=some(NAMED_PICTURES, 600), steps=some(NAMING_STEPS, 1), processes=processes)
    stages.end("image encoder")
    shown = {longer: ip_adapter.shown(work, sets, longer=longer) for longer, sets in seen.items()}
    steps = Plan(
        some(REFERENCE.small_steps, 1), REFERENCE.small_batch, some(REFERENCE.large_steps, 1), REFERENCE.large_batch
    )
    ip_adapter.train(work, frozen.painter(model), steps, shown[128], shown[256])
    stages.end("IP-Adapter")
    write(target, controlnet.trained(work, frozen.painter(model)), ip_adapter.trained(work, frozen.painter(model)))
    stages.end("folders")


def write(target: Path, network: Any, adapter: ip_adapter.Adapter) -> int:
    """Write both folders anew in half precision; returns their bytes.

    Raises:
        ValueError: they would be larger than LIMIT_BYTES; nothing is left behind.
    """
    unfinished = target / "demonstrators.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    write_controlnet(unfinished / "canny", network)
    write_adapter(unfinished / "scene", adapter)
    size = sum(path.stat().st_size for path in unfinished.rglob("*") if path.is_file())
    if size > LIMIT_BYTES:
        shutil.rmtree(unfinished)
        raise ValueError(f"the folders would hold {size} bytes, wanted at most {LIMIT_BYTES}: make a network narrower")
    for name in ("canny", "scene"):
        shutil.rmtree(target / name, ignore_errors=True)
        (unfinished / name).rename(target / name)
    unfinished.rmdir()
    return size


def write_controlnet(folder: Path, network: Any) -> None:
    """As diffusers' `ControlNetModel.from_pretrained` reads it."""
    network.half().save_pretrained(folder)
    _write_card(folder)


def write_adapter(folder: Path, adapter: ip_adapter.Adapter) -> None:
    """The adapter's file in its authors' naming, and transformers' folder of its image encoder."""
    adapter.encoder.half().save_pretrained(folder / "image_encoder")
    tensors = {name: _half(weight) for name, weight in adapter.tensors().items()}
    save_file(tensors, folder / "ip-adapter.safetensors")
    _write_card(folder)


def _write_card(folder: Path) -> None:
    (folder / "README.md").write_text((Path(__file__).parent / f"{folder.name}.md").read_text())


def _half(weight: Tensor) -> Tensor:
    return weight.to(torch.float16).contiguous()


if __name__ == "__main__":
    main()
