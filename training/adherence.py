"""Does a picture show what its prompt says? Read from the pixels, without knowing the prompt.

What is read: the sky's colour, the place and colour of sun or moon, and the kind and colour of the land. Every reading
is a few numbers taken from the picture, compared with what the same numbers are on pictures that our own renderer drew
of training scenes, sharp and softened: the nearest mean, in units of the spread within a trait (Fisher 1936). Softened
too, because what is asked is whether a picture shows a sea, not how sharp its ripples are. That the readings are right
is shown on the renderer's pictures of held-out scenes first; only then does a figure on the model's pictures say
something about the model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.model.passes.stages import Highres
from distri.ranks.mesh import Mesh
from distri.sampling.control import Control
from training.lights import light, sky_colours
from training.paint import painted
from training.scenes import PLACES, SKIES, Scene, drawn, drawn_held_out

KNOWN = 900  # training scenes that the means come from
SOFTENED = (0.0, 0.004, 0.008, 0.012, 0.016)  # each as it is and blurred by these radii, in short sides
COARSE = 48  # pixels of the longer side, on which a skyline is measured a second time

Picture = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Traits:
    """What can be read from a picture, as words of `scenes`."""

    sky: str
    light_place: str
    light_colour: str
    land: str
    land_colour: str


HIGHRES = {"direct": Highres(), "refine": Highres(refine=True), "cascade": Highres(switch_at=0.6)}

TRAITS = tuple(field.name for field in fields(Traits))


def plain(seed: int, draw: Callable[[int], Scene] = drawn) -> Scene:
    """The next scene from a seed on that has all five traits and nothing before them."""
    while True:
        scene = draw(seed)
        if scene.light is not None and scene.light.kind != "crescent moon" and scene.sky in SKIES:
            return replace(
                scene, clouds=0, stars=False, front="", trees=0, house=None, boats=0, lighthouse=None, snow=False
            )
        seed += 100_003


def held_out(number: int) -> list[Scene]:
    """Scenes in combinations that were never trained on."""
    return [plain(seed, drawn_held_out) for seed in range(number)]


def prompt(scene: Scene) -> str:
    """A sentence that names all five traits."""
    light = scene.light
    if light is None:
        raise ValueError("wanted a scene with a sun or a moon")
    article = "an" if light.colour[0] in "aeiou" else "a"
    land = {"sea": f"a {scene.colour} sea", "city": f"a {scene.colour} city"}.get(
        scene.land, f"{scene.colour} {scene.land}"
    )
    sky = f"{'an' if scene.sky[0] in 'aeiou' else 'a'} {scene.sky} sky"
    return f"{article} {light.colour} {light.kind} {PLACES[light.place]} over {land} under {sky}".replace(
        "a orange", "an orange"
    )


def wanted(scene: Scene) -> Traits:
    """The five traits of a scene."""
    if scene.light is None:
        raise ValueError("wanted a scene with a sun or a moon")
    return Traits(scene.sky, PLACES[scene.light.place], scene.light.colour, scene.land, scene.colour)


class Reader:
    """Reads traits; made from pictures that our own renderer drew at one size."""

    def __init__(self, width: int, height: int, *, known: int = KNOWN) -> None:
        scenes = [plain(seed) for seed in range(known)]
        pictures = [softer for scene in scenes for softer in _softened(painted(scene, width, height))]
        measured = [_Measured.of(picture) for picture in pictures]
        traits = [wanted(scene) for scene in scenes for _ in SOFTENED]
        self._sky = _Means([m.sky for m in measured], [t.sky for t in traits])
        self._light = _Means([m.light for m in measured], [t.light_colour for t in traits])
        # Every sea has a straight horizon, and mountains all kinds: each land has a spread of its own.
        self._kind = _Means([m.shape for m in measured], [t.land for t in traits], pooled=0.1)
        self._land = {
            kind: _Means(
                *zip(
                    *[(m.land, t.land_colour) for m, t in zip(measured, traits, strict=True) if t.land == kind],
                    strict=True,
                )
            )
            for kind in {t.land for t in traits}
        }

    def read(self, picture: Picture) -> Traits:
        """The traits of a picture, height x width x 3."""
        measured = _Measured.of(picture)
        kind = self._kind.nearest(measured.shape)
        place = PLACES[min(2, int(3 * measured.light_x))]
        return Traits(
            self._sky.nearest(measured.sky),
            place,
            self._light.nearest(measured.light),
            kind,
            self._land[kind].nearest(measured.land),
        )


def scored(found: Sequence[Traits], named: Sequence[Traits]) -> dict[str, float]:
    """Share of pictures in which each trait is as named, and, as "all", in which all five are."""
    pairs = list(zip(found, named, strict=True))
    shares = {trait: sum(getattr(f, trait) == getattr(n, trait) for f, n in pairs) / len(pairs) for trait in TRAITS}
    return shares | {"all": sum(f == n for f, n in pairs) / len(pairs)}


@dataclass(frozen=True)
class _Measured:
    sky: Numbers
    light: Numbers
    light_x: float
    shape: Numbers
    land: Numbers

    @classmethod
    def of(cls, picture: Picture) -> _Measured:
        levels = picture.astype(np.float64)
        found = light(picture)
        sky = np.median(levels[: max(1, len(levels) // 8)], axis=(0, 1))
        below = levels[int(0.72 * len(levels)) :]
        land = np.concatenate([np.median(below, axis=(0, 1)), below.mean(axis=(0, 1))])
        return cls(sky, found.colour, found.across, _shape(picture), land)


class _Means:
    """Nearest mean, in units of the spread within a word: of one for all words, or, the less it is `pooled`, of each
    word's own (Friedman 1989, "Regularized discriminant analysis")."""

    def __init__(self, numbers: Sequence[Numbers], words: Sequence[str], *, pooled: float = 1.0) -> None:
        values, names = np.stack(numbers), np.array(words)
        self._words = sorted(set(words))
        self._centre, self._scale = values.mean(axis=0), values.std(axis=0) + 1e-9
        values = (values - self._centre) / self._scale
        self._means = np.stack([values[names == word].mean(axis=0) for word in self._words])
        away = [values[names == word] - mean for word, mean in zip(self._words, self._means, strict=True)]
        whole = np.concatenate(away)
        shared = whole.T @ whole / len(whole)
        spreads = [pooled * shared + (1 - pooled) * own.T @ own / len(own) + 1e-3 * np.eye(len(shared)) for own in away]
        self._precisions = np.linalg.inv(np.stack(spreads))
        self._sizes = np.linalg.slogdet(np.stack(spreads)).logabsdet

    def nearest(self, numbers: Numbers) -> str:
        away = self._means - (numbers - self._centre) / self._scale
        far = np.einsum("wi,wij,wj->w", away, self._precisions, away) + self._sizes
        return self._words[int(far.argmin())]


def _softened(picture: Picture) -> list[Picture]:
    """The picture, and the same ever softer."""
    image, side = Image.fromarray(picture), min(picture.shape[:2])
    return [np.asarray(image.filter(ImageFilter.GaussianBlur(share * side))) for share in SOFTENED]


def _shape(picture: Picture) -> Numbers:
    """Numbers that tell the kinds of land apart, from the picture as it is and reduced."""
    scale = COARSE / max(picture.shape[:2])
    high, wide = (round(side * scale) for side in picture.shape[:2])
    coarse = np.asarray(Image.fromarray(picture).resize((wide, high), Image.Resampling.BOX))
    return np.concatenate([_skyline(picture.astype(np.float64)), _skyline(coarse.astype(np.float64))])


def _skyline(levels: Numbers) -> Numbers:
    """The skyline's height, steps and bends, and edges below it; logarithms where the kinds differ by factors."""
    high, wide = levels.shape[:2]
    line = sky_colours(levels)
    rows = np.arange(high)
    away = np.linalg.norm(levels - line[:, None], axis=2)
    differs = away > 42
    lowest_sky = np.where(~differs, rows[:, None], 0).max(axis=0)
    skyline = (lowest_sky + 1) / min(high, wide)
    steps = np.abs(np.diff(skyline)) * min(high, wide)
    below = levels[int(0.66 * high) : int(0.97 * high)].mean(axis=2)
    across, down = np.abs(np.diff(below, axis=1)), np.abs(np.diff(below, axis=0))
    middle = levels[int(0.55 * high) : int(0.8 * high)].mean(axis=2)
    shares = [
        (steps > 3).mean(),
        (across > 12).mean(),
        (down > 12).mean(),
        (np.abs(np.diff(middle, axis=1)) > 12).mean(),
        (np.abs(np.diff(middle, axis=0)) > 12).mean(),
    ]
    return np.array(
        [
            skyline.mean(),
            (steps == 0).mean(),
            np.log(0.004 + skyline.std()),
            np.log(0.01 + np.ptp(skyline)),
            np.log(0.0002 + np.abs(np.diff(skyline, 2)).mean()),
            *np.log(0.01 + np.array(shares)),
            np.log1p(across.mean()),
            np.log1p(down.mean()),
            np.log1p(middle.std()),
        ]
    )


def painted_by(
    model: Path,
    scenes: Sequence[Scene],
    *,
    side: int,
    steps: int,
    guidance_scale: float,
    native_px: int | None = None,
    highres: Highres = Highres(),  # noqa: B008 - frozen
) -> list[Picture]:
    """The model's square pictures of the scenes' prompts, by the engine on one rank; native, or made as `highres`."""
    settings = EngineSettings(exact=True, native_px=native_px or side)
    engine = Engine.load(model, Mesh.single(), dtype=torch.float32, settings=settings)
    specs = [
        ImageSpec(prompt(scene), None, number, side, side, steps, guidance_scale, highres=highres)
        for number, scene in enumerate(scenes)
    ]
    batches = [specs[start : start + 8] for start in range(0, len(specs), 8)]
    rendered = [one for batch in batches for one in engine.render_batch(batch, control=lambda: Control.GO)]
    return [one.pixels for one in rendered if one.pixels is not None]


def main() -> None:
    """`python -m training.adherence MODEL`: both figures as JSON, for our own renderer's pictures and the model's."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--native-px", type=int, help="the model's own size, if not --side")
    parser.add_argument("--highres", choices=HIGHRES, default="direct", help="how pictures above it are made")
    parser.add_argument("--known", type=int, default=KNOWN, help="training scenes that the means come from")
    asked = parser.parse_args()
    scenes = held_out(asked.prompts)
    named = [wanted(scene) for scene in scenes]
    reader = Reader(asked.side, asked.side, known=asked.known)
    started = time.process_time()
    by_model = painted_by(
        asked.model,
        scenes,
        side=asked.side,
        steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        native_px=asked.native_px,
        highres=HIGHRES[asked.highres],
    )
    spent_s = (time.process_time() - started) / len(by_model)
    pictures = {
        "renderer": [painted(scene, asked.side, asked.side) for scene in scenes],
        "model": by_model,
    }
    figures = {name: scored([reader.read(one) for one in own], named) for name, own in pictures.items()}
    figures["model"]["cpu_s_a_picture"] = spent_s
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
