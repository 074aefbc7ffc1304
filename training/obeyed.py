"""Do pictures obey the demonstrators? Measured on scenes in combinations that nothing was trained on.

*Edges*: of the steepest places of a picture, as many as edges were given, how many lie within a few pixels of one, and
how many edges have one of them (Martin et al. 2004, "Learning to detect natural image boundaries", with as many on both
sides in the place of a threshold: the demo model's pictures are softer than the renderer's). What is attainable is what
the renderer's own picture has after the model's VAE has encoded and decoded it. *A reference*: the traits that
`adherence` reads from a picture whose prompt is empty. Beside each figure stand those of two control groups: the same
prompts and seeds without the demonstrator, and pictures with it beside what another one was given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter

from distri.engine import Engine, EngineSettings
from distri.model.control.controlnets import ControlNet
from distri.model.image import ControlPicture, ImageSpec
from distri.model.reference.ip_adapter import IPAdapter
from distri.model.reference.references import ReferencePicture
from distri.ranks.mesh import Mesh
from distri.run.preprocessors import canny, gradients
from distri.sampling.control import Control
from training import adherence, frozen
from training.autoencoder import as_input
from training.paint import painted
from training.scenes import Scene, caption, drawn_held_out

SIDE, STEPS, GUIDANCE = 256, 25, 5.0
NEAR_PX = 2  # how far a steep place may be from an edge
OBEYED = 2 / 3  # of the agreement that is attainable: the least that counts as obeyed
ATTAINABLE = 0.25  # less is attainable where the model's VAE keeps none of the edges: nobody can obey those

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def edges_of(picture: Picture) -> Mask:
    """Those that a ControlNet is given: height x width, from a picture of height x width x 3."""
    return np.asarray(canny(picture)[..., 0] > 0)


def steepest(picture: Picture, count: int) -> Mask:
    """The `count` steepest places of a picture, of those that canny chooses from; more if some are equal."""
    found = gradients(picture)
    least = np.sort(found, axis=None)[::-1][min(count, found.size) - 1] if count else np.inf
    return np.asarray((found >= least) & (found > 0))


def agreement(picture: Picture, edges: Mask) -> float:
    """How far the steepest places of a picture are the edges that were given, from 0 to 1.

    The harmonic mean of the shares of each that have one of the other within NEAR_PX along both axes.
    """
    own = steepest(picture, int(edges.sum()))
    found, given = _share_near(edges, own), _share_near(own, edges)
    return 2 * found * given / max(1e-9, found + given)


@torch.no_grad()
def attainable(vae: Any, picture: Picture) -> float:
    """The agreement of a picture's own edges with what the model's VAE makes of it."""
    decoded = vae.decode(vae.encode(as_input(picture[None])).latent_dist.mean).sample[0]
    levels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return agreement(levels, edges_of(picture))


def _share_near(some: Mask, others: Mask) -> float:
    around = Image.fromarray(others.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * NEAR_PX + 1))
    return float((np.asarray(around)[some] > 0).mean()) if some.any() else 0.0


def controlled(scene: Scene, number: int, network: ControlNet | None, *, steps: int, side: int = SIDE) -> ImageSpec:
    """A picture of a scene's caption, steered by the edges of the renderer's picture, or without a network not."""
    spec = ImageSpec(caption(scene, Random(number)), None, number, side, side, steps, GUIDANCE)
    if network is None:
        return spec
    return replace(spec, control=(ControlPicture(network, pixels=canny(painted(scene, side, side))),))


def referring(scene: Scene, number: int, adapter: IPAdapter | None, *, steps: int, side: int = SIDE) -> ImageSpec:
    """A picture of no prompt that shall resemble the renderer's of a scene, or without an adapter nothing."""
    spec = ImageSpec("", None, number, side, side, steps, GUIDANCE)
    if adapter is None:
        return spec
    return replace(spec, references=(ReferencePicture(adapter, f"{number:064x}", pixels=painted(scene, side, side)),))


def rendered(model: Path, specs: Sequence[ImageSpec], *, side: int = SIDE) -> list[Picture]:
    """Pictures by the engine on one rank, in their order."""
    engine = Engine.load(model, Mesh.single(), dtype=torch.float32, settings=EngineSettings(exact=True, native_px=side))
    batches = [specs[start : start + 8] for start in range(0, len(specs), 8)]
    made = [one for batch in batches for one in engine.render_batch(batch, control=lambda: Control.GO)]
    return [one.pixels for one in made if one.pixels is not None]


def edges_obeyed(model: Path, network: ControlNet, numbers: Sequence[int], *, steps: int) -> dict[str, Any]:
    """Agreement with the given edges, by group, and the share in which it is at least OBEYED of what is attainable.

    Scenes of whose edges less than ATTAINABLE is attainable are left out, and counted.

    Args:
        model: the demo model.
        network: the ControlNet.
        numbers: of scenes in combinations that nothing was trained on, and of their pictures' seeds.
        steps: of the scheduler.
    """
    vae, drawn = frozen.vae(model), [(number, drawn_held_out(number)) for number in numbers]
    pictures = [painted(scene, SIDE, SIDE) for _, scene in drawn]
    shown = [(one, picture, attainable(vae, picture)) for one, picture in zip(drawn, pictures, strict=True)]
    shown = [one for one in shown if one[2] >= ATTAINABLE]
    numbers, scenes = [number for (number, _), _, _ in shown], [scene for (_, scene), _, _ in shown]
    edges, most = [edges_of(picture) for _, picture, _ in shown], [share for _, _, share in shown]
    groups = {
        name: rendered(
            model, [controlled(one, number, used, steps=steps) for number, one in zip(numbers, scenes, strict=True)]
        )
        for name, used in (("with", network), ("without", None))
    }
    found = {name: [agreement(*pair) for pair in zip(own, edges, strict=True)] for name, own in groups.items()}
    figures = {name: _shares(values, most) for name, values in found.items()}
    others = [agreement(*pair) for pair in zip(groups["with"], edges[1:] + edges[:1], strict=True)]
    figures["with another's edges"] = _shares(others, most[1:] + most[:1])
    reach = {"median": float(np.median(most)), "values": [round(one, 3) for one in most]}
    return figures | {"attainable": reach, "scenes": len(scenes), "left out": len(drawn) - len(scenes)}


def _shares(values: Sequence[float], most: Sequence[float]) -> dict[str, Any]:
    shares = np.array(values) / np.maximum(most, 1e-9)
    return {
        "obeyed": float((shares >= OBEYED).mean()),
        "median": float(np.median(values)),
        "median share": float(np.median(shares)),
        "values": [round(value, 3) for value in values],
    }


def reference_obeyed(
    model: Path, adapter: IPAdapter, numbers: Sequence[int], *, steps: int, known: int = adherence.KNOWN
) -> dict[str, Any]:
    """Share of pictures in which each trait is the reference's, by group. Arguments as above, `known` as `Reader`'s."""
    scenes = [adherence.plain(number, drawn_held_out) for number in numbers]
    reader = adherence.Reader(SIDE, SIDE, known=known)
    named = [adherence.wanted(scene) for scene in scenes]
    groups = {
        name: rendered(
            model, [referring(one, number, used, steps=steps) for number, one in zip(numbers, scenes, strict=True)]
        )
        for name, used in (("with", adapter), ("without", None))
    }
    read = {name: [reader.read(one) for one in own] for name, own in groups.items()}
    figures = {name: adherence.scored(own, named) for name, own in read.items()}
    return figures | {"with another's reference": adherence.scored(read["with"], named[1:] + named[:1])}


def main() -> None:
    """`python -m training.obeyed MODELS`: figures of MODELS/demo with MODELS/canny and MODELS/scene, as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--known", type=int, default=adherence.KNOWN, help="scenes that traits are known by")
    parser.add_argument("--only", choices=("canny", "scene"), help="one of the two")
    asked = parser.parse_args()
    numbers, model = range(asked.first, asked.first + asked.scenes), asked.models / "demo"
    figures: dict[str, Any] = {}
    if asked.only != "scene":
        network = ControlNet(asked.models / "canny" / "diffusion_pytorch_model.safetensors")
        figures["edges"] = edges_obeyed(model, network, numbers, steps=asked.steps)
    if asked.only != "canny":
        folder = asked.models / "scene"
        adapter = IPAdapter(folder / "ip-adapter.safetensors", folder / "image_encoder")
        figures["reference"] = reference_obeyed(model, adapter, numbers, steps=asked.steps, known=asked.known)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
