"""A scene to pixels: sky, sun or moon, clouds, then what `lands` and `things` draw in front.

All lengths are shares of the shorter side, so that a scene is the same at every size. Drawn larger than asked for and
reduced, which gives clean edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from training.scenes import COLOURS, TIMES, Light, Scene

Pixels = npt.NDArray[np.float32]
RGB = tuple[int, int, int]


@dataclass
class Canvas:
    """A picture in the making.

    Attributes:
        pixels: height x width x 3, 0 to 255; of the enlarged picture.
        unit: one short side, in enlarged pixels.
        lot: what the words leave open.
        glow: colour of the horizon, which far things take on.
        light_x: where sun or moon stand, in enlarged pixels, and their colour; None without.
        ground: row on which things in front stand, in enlarged pixels.
        free: places along the width that nothing stands on yet.
    """

    pixels: Pixels
    unit: float
    lot: Random
    glow: RGB
    light_x: float | None
    light_colour: RGB
    ground: float

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    def fill(self, mask: npt.NDArray[np.bool_], colour: RGB | Pixels) -> None:
        """Colour what a mask of height x width names, with one colour or with a picture's."""
        if isinstance(colour, tuple):
            self.pixels[mask] = colour
        else:
            self.pixels[mask] = colour[mask]

    def draw(self, paint: object) -> None:
        """Let `paint(draw)` draw on the picture with Pillow."""
        image = Image.fromarray(self.pixels.clip(0, 255).astype(np.uint8))
        paint(ImageDraw.Draw(image))  # type: ignore[operator]
        self.pixels = np.asarray(image, dtype=np.float32).copy()


def painted(scene: Scene, width: int, height: int, *, enlarged: int = 2) -> npt.NDArray[np.uint8]:
    """The picture of a scene.

    Returns:
        height x width x 3, uint8; equal for equal arguments on any machine.
    """
    from training import lands, things

    lot = Random(f"paint {scene.seed}")
    wide, high = width * enlarged, height * enlarged
    unit = float(min(wide, high))
    top, horizon = _sky(scene, lot)
    down = np.linspace(0.0, 1.45, high, dtype=np.float32).clip(0, 1)[:, None, None]
    sky = levels(top) * (1 - down) + levels(horizon) * down
    canvas = Canvas(np.broadcast_to(sky, (high, wide, 3)).copy(), unit, lot, horizon, None, (255, 255, 255), 0.9 * high)
    if scene.stars:
        _stars(canvas)
    if scene.light is not None:
        _light(canvas, scene, scene.light)
    if scene.clouds:
        _clouds(canvas, scene)
    lands.lay(canvas, scene)
    things.place(canvas, scene)
    image = Image.fromarray(canvas.pixels.clip(0, 255).astype(np.uint8))
    return np.asarray(image.reduce(enlarged) if enlarged > 1 else image).copy()


def varied(name: str, lot: Random, spread: float = 9.0) -> RGB:
    """A colour word's colour, a little off."""
    red, green, blue = (max(0, min(255, round(level + lot.uniform(-spread, spread)))) for level in COLOURS[name])
    return red, green, blue


def levels(colour: RGB) -> Pixels:
    """A colour to calculate with."""
    return np.array(colour, dtype=np.float32)


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """`first`, with a share of `second` in it."""
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def shaded(colour: RGB, factor: float) -> RGB:
    """Darker below 1, towards white above."""
    return mixed((0, 0, 0), colour, factor) if factor <= 1 else mixed(colour, (255, 255, 255), factor - 1)


def _sky(scene: Scene, lot: Random) -> tuple[RGB, RGB]:
    if scene.sky in TIMES:
        top, horizon = TIMES[scene.sky]
        return mixed(top, (128, 128, 128), lot.uniform(0, 0.05)), mixed(horizon, (255, 255, 255), lot.uniform(0, 0.06))
    colour = varied(scene.sky, lot)
    if scene.sky == "black":
        return shaded(colour, 0.6), mixed(colour, (70, 74, 110), 0.3)
    return shaded(colour, lot.uniform(0.88, 0.98)), mixed(colour, (255, 250, 240), lot.uniform(0.3, 0.42))


def _stars(canvas: Canvas) -> None:
    lot, unit = canvas.lot, canvas.unit
    stars = [(lot.uniform(0, canvas.width), lot.uniform(0, 0.55 * canvas.height), lot.choice((0.0035, 0.005, 0.0075)))
             for _ in range(round(44 * canvas.width * canvas.height / unit**2))]  # fmt: skip

    def dots(draw: ImageDraw.ImageDraw) -> None:
        for x, y, radius in stars:
            r = radius * unit
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 248, 226))

    canvas.draw(dots)


def _light(canvas: Canvas, scene: Scene, light: Light) -> None:
    lot, unit = canvas.lot, canvas.unit
    radius = (
        unit * {-1: lot.uniform(0.055, 0.068), 0: lot.uniform(0.085, 0.11), 1: lot.uniform(0.145, 0.18)}[light.size]
    )
    x = canvas.width * (
        0.5 + (light.place - 1) * lot.uniform(0.25, 0.34) + lot.uniform(-0.05, 0.05) * (light.place == 1)
    )
    y = max(canvas.height * lot.uniform(0.2, 0.32), 1.12 * radius)
    colour = varied(light.colour, lot)
    rows, columns = np.ogrid[: canvas.height, : canvas.width]
    far = np.sqrt((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2).astype(np.float32)
    halo = np.exp(-((far / radius - 1).clip(0) ** 2) / (1.1 if light.kind == "sun" else 0.5))[..., None]
    strength = 0.42 if light.kind == "sun" else 0.22
    canvas.pixels += halo * strength * (levels(shaded(colour, 1.25)) - canvas.pixels)
    disc = far <= radius
    if light.kind == "crescent moon":
        side = lot.choice((-1, 1))
        disc &= (columns + 0.5 - x - side * 0.5 * radius) ** 2 + (rows + 0.5 - y + 0.16 * radius) ** 2 > (
            0.86 * radius
        ) ** 2
    canvas.fill(disc, colour)
    if light.kind == "moon":
        for _ in range(5):
            angle, out, size = lot.uniform(0, 2 * math.pi), lot.uniform(0.1, 0.62), lot.uniform(0.12, 0.25)
            hole_x, hole_y = x + out * radius * math.cos(angle), y + out * radius * math.sin(angle)
            hole = (columns + 0.5 - hole_x) ** 2 + (rows + 0.5 - hole_y) ** 2 <= (size * radius) ** 2
            canvas.fill(hole, shaded(colour, 0.88))
    canvas.light_x, canvas.light_colour = x, colour


def _clouds(canvas: Canvas, scene: Scene) -> None:
    lot, unit = canvas.lot, canvas.unit
    colour = mixed(varied(scene.cloud_colour, lot), canvas.glow, 0.08)
    slots = list(range(4))
    if scene.light is not None:
        taken = min(3, int(4 * (canvas.light_x or 0) / canvas.width))
        slots.remove(taken)
    lot.shuffle(slots)
    spots = [((slot + lot.uniform(0.35, 0.65)) / 4 * canvas.width, lot.uniform(0.1, 0.33) * canvas.height)
             for slot in slots[: scene.clouds]]  # fmt: skip
    puffs = []
    for x, y in spots:
        size = lot.uniform(0.055, 0.075) * unit
        for step in range(-2, 3):
            r = size * (1.0 - 0.2 * abs(step)) * lot.uniform(0.85, 1.1)
            puffs.append((x + step * size * 0.62, y - r * 0.55, r))
        puffs.append((x, y, -size))

    def soft(draw: ImageDraw.ImageDraw) -> None:
        for x, y, r in puffs:
            if r > 0:
                draw.ellipse((x - r, y - 0.72 * r, x + r, y + 0.9 * r), fill=shaded(colour, 0.93))
        for x, y, r in puffs:
            if r > 0:
                draw.ellipse((x - 0.92 * r, y - 0.7 * r, x + 0.92 * r, y + 0.62 * r), fill=colour)

    canvas.draw(soft)
