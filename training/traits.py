"""A small CLIP image encoder, taught to name what a scene shows before it is of use to an IP-Adapter."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from training.checkpoint import average_of
from training.loop import learn
from training.paint import painted
from training.scenes import Scene, drawn

SIDE, PATCH, WIDTH = 64, 8, 128
FIRST_SEED = 1_000_000  # its scenes begin here
PEAK_RATE, BATCH = 1e-3, 32


def encoder() -> Any:
    """Before training."""
    kind: Any = CLIPVisionModelWithProjection
    return kind(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
        )
    )


def seen(pictures: Any) -> Tensor:
    """uint8 BHWC, as the encoder reads them: their middle square, B x 3 x SIDE x SIDE; as `ImageEncoder.embed` does."""
    processor = CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)
    values: Tensor = processor(list(pictures), return_tensors="pt", input_data_format="channels_last").pixel_values
    return values


def traits_of(scene: Scene) -> tuple[str, ...]:
    """What there is to name, always as many words."""
    light = scene.light
    return (
        scene.sky,
        *((light.kind, light.colour, str(light.place), str(light.size)) if light else ("none",) * 4),
        f"{scene.land} {scene.colour}",
        f"{scene.snow} {scene.front} {scene.front_colour if scene.front else ''}",
        str(scene.clouds),
        str(scene.stars),
        f"{scene.trees} {scene.tree_kind if scene.trees else ''}",
        scene.tree_colour if scene.trees else "none",
        str(scene.house),
        f"{scene.boats} {scene.sail if scene.boats else ''}",
        str(scene.lighthouse),
    )


def render(directory: Path, *, count: int, processes: int) -> Any:
    """Pictures of `count` scenes, uint8 BHWC, square; what is there already is kept."""
    target = directory / "pictures-traits.npy"
    if not target.exists() or len(np.load(target, mmap_mode="r")) < count:
        with ProcessPoolExecutor(processes) as pool:
            pictures = list(pool.map(_picture, range(FIRST_SEED, FIRST_SEED + count), chunksize=64))
        unfinished = target.with_name("unfinished.npy")
        np.save(unfinished, np.stack(pictures))
        unfinished.rename(target)
    return np.load(target, mmap_mode="r")


def _picture(seed: int) -> npt.NDArray[np.uint8]:
    """Drawn twice as large as it is seen: so are the ones that users give, or larger."""
    return painted(drawn(seed), 2 * SIDE, 2 * SIDE, enlarged=1)


class Namer(nn.Module):
    """The encoder and, for each trait, a layer that names it from the pooled embedding."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        super().__init__()
        self.encoder = encoder()
        columns = list(zip(*map(traits_of, scenes), strict=True))
        self.known = [{word: number for number, word in enumerate(sorted(set(column)))} for column in columns]
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(known)) for known in self.known)

    def numbers(self, scenes: Sequence[Scene]) -> Tensor:
        """Their words as numbers, B x traits."""
        return torch.tensor(
            [[known[trait] for known, trait in zip(self.known, traits_of(scene), strict=True)] for scene in scenes]
        )

    def forward(self, values_B3HW: Tensor) -> list[Tensor]:
        """Scores of each trait's words."""
        embedded = self.encoder(values_B3HW).image_embeds
        return [head(embedded) for head in self.heads]


def train(directory: Path, *, count: int, steps: int, processes: int = 1, save_every: int = 100) -> Path:
    """Train from where the last run stopped, on pictures of `count` scenes; returns the checkpoint."""
    torch.manual_seed(3)
    scenes = [drawn(seed) for seed in range(FIRST_SEED, FIRST_SEED + count)]
    network = Namer(scenes)
    targets, pictures = network.numbers(scenes), render(directory, count=count, processes=processes)

    def loss(step: int, lot: Random) -> Tensor:
        chosen = [lot.randrange(count) for _ in range(BATCH)]
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(seen(pictures[chosen]))
        wanted = targets[chosen]
        each = [functional.cross_entropy(one.float(), wanted[:, trait]) for trait, one in enumerate(scores)]
        return torch.stack(each).mean()

    return learn(
        directory / "traits.safetensors",
        network,
        [(PEAK_RATE, list(network.parameters()))],
        loss,
        steps=steps,
        warmup=100,
        weight_decay=0.05,
        save_every=save_every,
    )


def trained(directory: Path) -> Any:
    """The averaged encoder."""
    network = encoder()
    weights = average_of(directory / "traits.safetensors")
    network.load_state_dict(
        {name.removeprefix("encoder."): weight for name, weight in weights.items() if name.startswith("encoder.")}
    )
    return network
