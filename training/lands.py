"""What fills the lower half of a picture: mountains, hills, a city, the sea, dunes."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw

from training.paint import RGB, Canvas, levels, mixed, shaded, varied
from training.scenes import Scene

Line = npt.NDArray[np.float32]


def lay(canvas: Canvas, scene: Scene) -> None:
    """Draw the scene's land, and what lies before it."""
    colour = varied(scene.colour, canvas.lot)
    if scene.dark:
        colour = shaded(colour, 0.82)
    {"mountains": _mountains, "hills": _hills, "city": _city, "sea": _sea, "dunes": _dunes}[scene.land](
        canvas, scene, colour
    )


def _ridge(lot: Random, width: int, unit: float, spacing: float, rough: float) -> Line:
    """A skyline of peaks and valleys, 0 to 1 per column, broken up at ever smaller distances."""
    count = max(3, round(width / unit / spacing)) * 2 + 1
    xs = [(i + lot.uniform(-0.28, 0.28)) / (count - 1) * width for i in range(count)]
    xs[0], xs[-1] = 0.0, float(width)
    ys = [lot.uniform(0.62, 1.0) if i % 2 else lot.uniform(0.0, 0.38) for i in range(count)]
    for _ in range(3):
        new_x, new_y = [xs[0]], [ys[0]]
        for i in range(1, len(xs)):
            new_x.append((xs[i - 1] + xs[i]) / 2)
            new_y.append((ys[i - 1] + ys[i]) / 2 + lot.uniform(-rough, rough) * abs(ys[i] - ys[i - 1]))
            new_x.append(xs[i])
            new_y.append(ys[i])
        xs, ys = new_x, new_y
        rough *= 0.7
    return np.interp(np.arange(width), xs, ys).astype(np.float32)


def _waves(lot: Random, width: int, unit: float, lengths: tuple[float, ...]) -> Line:
    """A smooth skyline, 0 to 1 per column."""
    x = np.arange(width) / unit
    line = np.zeros(width)
    for length in lengths:
        line += length * np.sin(2 * math.pi * x / (length * lot.uniform(0.85, 1.2)) + lot.uniform(0, 7))
    line -= line.min()
    scaled: Line = (line / max(line.max(), 1e-6)).astype(np.float32)
    return scaled


def _below(canvas: Canvas, line: Line) -> tuple[npt.NDArray[np.bool_], Line]:
    """The mask under a line of rows, and how deep each pixel lies under it."""
    depth: Line = np.arange(canvas.height, dtype=np.float32)[:, None] - line[None, :]
    return depth >= 0, depth


def _mountains(canvas: Canvas, scene: Scene, colour: RGB) -> None:
    lot, unit, high, wide = canvas.lot, canvas.unit, canvas.height, canvas.width
    foot = high * (lot.uniform(0.7, 0.76) if scene.front else 1.02)
    base = min(foot, high * lot.uniform(0.68, 0.76))
    columns = np.arange(wide)
    layers = 2 if scene.front or lot.random() < 0.5 else 3
    for layer in range(layers):
        near = (layer + 1) / layers
        line = base + (layer - layers + 1) * 0.07 * unit + 0.06 * unit * layer
        height = unit * (0.36 - 0.07 * layer) * lot.uniform(0.88, 1.08)
        ridge = _ridge(lot, wide, unit, 0.55 - 0.06 * layer, 0.22)
        skyline = line - height * ridge
        mask, depth = _below(canvas, skyline)
        body = mixed(colour, canvas.glow, 0.34 * (1 - near))
        smooth = np.convolve(np.pad(ridge, 8, mode="edge"), np.ones(17) / 17, mode="valid")
        slope = np.gradient(smooth)
        at = (columns[None, :] + (0.42 * depth * (1 if lot.random() < 0.5 else -1)).astype(np.int32)).clip(0, wide - 1)
        lit = slope[at] > 0
        picture = np.where(lit[..., None], levels(shaded(body, 1.12)), levels(shaded(body, 0.76)))
        fade = (depth / (0.6 * unit)).clip(0, 0.4)[..., None]
        picture = picture * (1 - fade) + levels(shaded(body, 0.86)) * fade
        if scene.snow:
            edge = unit * (0.035 + 0.028 * _ridge(lot, wide, unit, 0.07, 0.3))
            cap = depth < (edge + height * (ridge - 0.62)).clip(0)[None, :]
            snow = np.where(lit[..., None], levels((250, 250, 252)), levels((206, 214, 230)))
            picture = np.where(cap[..., None], snow, picture)
        canvas.fill(mask, picture.astype(np.float32))
    canvas.ground = high * 0.93
    if scene.front == "meadow":
        _meadow(canvas, varied(scene.front_colour, lot), foot)
    elif scene.front == "lake":
        _water(canvas, varied(scene.front_colour, lot), foot)


def _meadow(canvas: Canvas, colour: RGB, top: float) -> None:
    line = top + canvas.unit * 0.03 * _waves(canvas.lot, canvas.width, canvas.unit, (0.9, 0.5))
    mask, depth = _below(canvas, line)
    share = (depth / (canvas.height - top + 1)).clip(0, 1)[..., None]
    canvas.fill(
        mask,
        (levels(shaded(colour, 1.1)) * (1 - share) + levels(shaded(colour, 0.8)) * share).astype(np.float32),
    )
    _tufts(canvas, line, colour)


def _tufts(canvas: Canvas, line: Line, colour: RGB) -> None:
    lot, unit = canvas.lot, canvas.unit
    spots = [
        (lot.uniform(0, canvas.width - 1), lot.random(), lot.choice((0.72, 0.84, 1.22)))
        for _ in range(round(70 * canvas.width / unit))
    ]

    def blades(draw: ImageDraw.ImageDraw) -> None:
        for x, down, tone in spots:
            top = line[int(x)]
            y = top + (0.08 + 0.92 * down) * (canvas.height - top)
            size = unit * (0.008 + 0.016 * down)
            for lean in (-0.7, 0.0, 0.7):
                draw.line(
                    (x, y, x + lean * size, y - size), fill=shaded(colour, tone), width=max(1, round(unit * 0.004))
                )

    canvas.draw(blades)


def _hills(canvas: Canvas, scene: Scene, colour: RGB) -> None:
    lot, unit, high, wide = canvas.lot, canvas.unit, canvas.height, canvas.width
    tops = (lot.uniform(0.56, 0.6), lot.uniform(0.67, 0.71), lot.uniform(0.8, 0.84))
    line = np.zeros(wide, np.float32)
    for layer, top in enumerate(tops):
        body = mixed(shaded(colour, 1.0 - 0.11 * layer), canvas.glow, (0.28, 0.1, 0.0)[layer])
        line = high * top - unit * (0.13 - 0.025 * layer) * (_waves(lot, wide, unit, (1.1, 0.62)) - 0.35)
        mask, depth = _below(canvas, line)
        share = (depth / (0.3 * unit)).clip(0, 1)[..., None]
        picture = levels(shaded(body, 1.14)) * (1 - share) + levels(shaded(body, 0.84)) * share
        if layer == 1 and lot.random() < 0.5:
            rows = ((depth / unit * 34).astype(np.int32) % 2 == 0)[..., None]
            picture = np.where(rows, picture, picture * 0.9)
        canvas.fill(mask, picture.astype(np.float32))
    _tufts(canvas, line, shaded(colour, 0.8))
    canvas.ground = high * 0.92


def _dunes(canvas: Canvas, scene: Scene, colour: RGB) -> None:
    lot, unit, high, wide = canvas.lot, canvas.unit, canvas.height, canvas.width
    columns = np.arange(wide)
    for layer, top in enumerate((lot.uniform(0.6, 0.64), lot.uniform(0.7, 0.74), lot.uniform(0.83, 0.87))):
        body = mixed(shaded(colour, 1.04 - 0.04 * layer), canvas.glow, (0.22, 0.08, 0.0)[layer])
        period, shift, lean = unit * lot.uniform(0.75, 1.05), lot.random(), lot.uniform(0.62, 0.74)
        phase = (columns / period + shift) % 1.0
        rise = np.where(
            phase < lean,
            np.sin(phase / lean * math.pi / 2) ** 2,
            np.cos((phase - lean).clip(0) / (1 - lean) * math.pi / 2).clip(0) ** 1.3,
        )
        line = (high * top - unit * (0.12 - 0.02 * layer) * (rise - 0.3)).astype(np.float32)
        mask, depth = _below(canvas, line)
        bend = (depth / unit * 1.15 + 0.9 * (depth / unit) ** 2) * unit
        at = ((columns[None, :] + bend) / period + shift) % 1.0
        dark = at > lean
        ripples = 1 + 0.035 * np.sin(depth / unit * 150 + 6 * np.sin(columns[None, :] / unit * 5))[..., None]
        picture = np.where(dark[..., None], levels(shaded(body, 0.72)), levels(shaded(body, 1.1)) * ripples)
        canvas.fill(mask, picture.astype(np.float32))
    canvas.ground = high * 0.93


def _sea(canvas: Canvas, scene: Scene, colour: RGB) -> None:
    _water(canvas, colour, canvas.height * canvas.lot.uniform(0.56, 0.64))
    canvas.ground = canvas.height * 0.8


def _water(canvas: Canvas, colour: RGB, top: float) -> None:
    lot, unit, high, wide = canvas.lot, canvas.unit, canvas.height, canvas.width
    mask, depth = _below(canvas, np.full(wide, top, np.float32))
    share = (depth / (high - top)).clip(0, 1)[..., None]
    far, near = mixed(shaded(colour, 1.14), canvas.glow, 0.12), shaded(colour, 0.74)
    canvas.fill(mask, (levels(far) * (1 - share) + levels(near) * share).astype(np.float32))
    strokes = []
    for _ in range(round(80 * wide / unit)):
        down = lot.random() ** 1.4
        strokes.append(
            (
                lot.uniform(0, wide),
                top + (0.03 + 0.97 * down) * (high - top),
                unit * (0.015 + 0.06 * down),
                down,
                shaded(mixed(far, near, down), lot.choice((1.22, 1.14, 0.84))),
            )
        )
    if canvas.light_x is not None:
        for _ in range(46):
            down = lot.random()
            x = canvas.light_x + lot.gauss(0, 0.035 + 0.03 * down) * unit
            strokes.append(
                (
                    x,
                    top + (0.02 + 0.9 * down) * (high - top),
                    unit * (0.02 + 0.045 * down),
                    down,
                    mixed(canvas.light_colour, far, 0.15),
                )
            )

    def waves(draw: ImageDraw.ImageDraw) -> None:
        for x, y, length, down, tone in strokes:
            thick = max(1.0, unit * (0.0022 + 0.005 * down))
            draw.ellipse((x - length / 2, y - thick, x + length / 2, y + thick), fill=tone)

    canvas.draw(waves)


def _city(canvas: Canvas, scene: Scene, colour: RGB) -> None:
    lot, unit, high, wide = canvas.lot, canvas.unit, canvas.height, canvas.width
    street = high * lot.uniform(0.85, 0.88)
    lit = (255, 222, 120) if scene.dark or scene.sky in ("sunset", "purple") or lot.random() < 0.3 else None
    rows = []
    for layer in range(2):
        body = mixed(shaded(colour, 0.98 - 0.16 * layer), canvas.glow, (0.36, 0.0)[layer])
        x = -unit * lot.uniform(0.0, 0.05)
        while x < wide:
            broad = unit * lot.uniform(0.085, 0.15)
            tall = unit * (lot.uniform(0.24, 0.42) if layer == 0 else lot.uniform(0.1, 0.3))
            rows.append(
                (layer, x, broad, tall, shaded(body, lot.uniform(0.9, 1.08)), lot.random() < 0.18, lot.random())
            )
            x += broad + (unit * lot.uniform(0.0, 0.05) if layer else 0)
    pane = unit * 0.0125

    def houses(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((0, street - 0.02 * unit, wide, high), fill=shaded(mixed(colour, (90, 90, 96), 0.5), 0.62))
        for layer, x, broad, tall, body, spire, style in rows:
            draw.rectangle((x, street - tall, x + broad, street), fill=body)
            if spire:
                draw.rectangle(
                    (x + broad * 0.46, street - tall - 0.06 * unit, x + broad * 0.54, street - tall), fill=body
                )
            if layer:
                draw.rectangle((x + broad * 0.86, street - tall, x + broad, street), fill=shaded(body, 0.82))
            inner = Random(f"{style}")
            y = street - tall + 2 * pane
            while y < street - 2 * pane:
                pos = x + 1.6 * pane
                while pos + pane < x + broad * (0.84 if layer else 0.95):
                    if lit and inner.random() < (0.5 if layer else 0.3):
                        draw.rectangle((pos, y, pos + pane, y + pane * 1.25), fill=lit)
                    elif layer or not lit:
                        draw.rectangle(
                            (pos, y, pos + pane, y + pane * 1.25),
                            fill=shaded(body, 0.74 if lit or style < 0.5 else 1.25),
                        )
                    pos += 2.1 * pane
                y += 2.7 * pane
        dash = unit * 0.07
        for number in range(int(wide / dash / 2) + 1):
            left = (2 * number + 0.5) * dash
            draw.rectangle((left, high * 0.945, left + dash, high * 0.945 + 0.008 * unit), fill=(226, 220, 190))

    canvas.draw(houses)
    canvas.ground = street + 0.02 * unit
