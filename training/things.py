"""What stands in front of the land: trees, a house, boats, a lighthouse."""

from __future__ import annotations

from PIL import ImageDraw

from training.paint import RGB, Canvas, shaded, varied
from training.scenes import Scene


def place(canvas: Canvas, scene: Scene) -> None:
    """Draw the scene's things, those at the back first."""
    lot, unit, wide = canvas.lot, canvas.unit, canvas.width
    dim = 0.8 if scene.dark else 1.0
    if scene.lighthouse is not None:
        _lighthouse(canvas, wide * (0.2 + 0.3 * scene.lighthouse), scene.dark)
    if scene.boats:
        spots = [scene.boat_place] if scene.boats == 1 else lot.sample(range(3), scene.boats)
        for spot in sorted(spots):
            x = wide * (0.2 + 0.3 * spot + lot.uniform(-0.04, 0.04))
            y = canvas.height * lot.uniform(0.72, 0.86)
            _boat(canvas, x, y, unit * lot.uniform(0.075, 0.095), shaded(varied(scene.sail, lot), dim))
    if scene.house is not None:
        _house(canvas, wide * (0.2 + 0.3 * scene.house), shaded(varied(scene.roof, lot), dim), scene.dark)
    slots = list(range(scene.trees))
    for slot in slots:
        x = wide * ((slot + 0.5 + lot.uniform(-0.18, 0.18)) / scene.trees)
        if scene.house is not None and abs(x - wide * (0.2 + 0.3 * scene.house)) < 0.14 * unit:
            x += 0.16 * unit if scene.house < 2 else -0.16 * unit
        size = unit * lot.uniform(0.2, 0.26) * (0.9 if scene.trees > 3 else 1.0)
        colour = shaded(varied(scene.tree_colour, lot), 0.86 * dim)
        (_pine if scene.tree_kind == "pine tree" else _round_tree)(
            canvas, x, canvas.ground + lot.uniform(0, 0.04) * unit, size, colour
        )


def _round_tree(canvas: Canvas, x: float, y: float, size: float, colour: RGB) -> None:
    lot = canvas.lot
    puffs = [(lot.uniform(-0.24, 0.24), lot.uniform(0.5, 0.86), lot.uniform(0.16, 0.22)) for _ in range(7)]
    dabs = [(lot.uniform(-0.3, 0.3), lot.uniform(0.42, 0.98), lot.choice((0.78, 1.16, 1.24))) for _ in range(16)]

    def tree(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((x - 0.05 * size, y - 0.5 * size, x + 0.05 * size, y), fill=(92, 62, 44))
        draw.ellipse((x - 0.32 * size, y - size, x + 0.32 * size, y - 0.38 * size), fill=colour)
        for dx, up, r in puffs:
            draw.ellipse(
                (x + (dx - r) * size, y - (up + r) * size, x + (dx + r) * size, y - (up - r) * size), fill=colour
            )
        for dx, up, tone in dabs:
            r = 0.035 * size
            draw.ellipse(
                (x + dx * size - r, y - up * size - r, x + dx * size + r, y - up * size + r), fill=shaded(colour, tone)
            )

    canvas.draw(tree)


def _pine(canvas: Canvas, x: float, y: float, size: float, colour: RGB) -> None:
    def tree(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((x - 0.04 * size, y - 0.2 * size, x + 0.04 * size, y), fill=(88, 60, 44))
        for low, top, half in ((0.14, 0.62, 0.32), (0.38, 0.86, 0.25), (0.62, 1.12, 0.18)):
            draw.polygon(
                [(x - half * size, y - low * size), (x, y - top * size), (x + half * size, y - low * size)], fill=colour
            )
            draw.polygon(
                [(x + half * size, y - low * size), (x, y - top * size), (x + 0.1 * half * size, y - low * size)],
                fill=shaded(colour, 0.78),
            )

    canvas.draw(tree)


def _house(canvas: Canvas, x: float, roof: RGB, dark: bool) -> None:
    unit, y = canvas.unit, canvas.ground
    half, tall = 0.1 * unit, 0.115 * unit
    wall = (176, 168, 160) if dark else (240, 232, 216)
    pane = (255, 222, 120) if dark else (120, 160, 200)

    def house(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((x - half, y - tall, x + half, y), fill=wall)
        draw.rectangle((x + 0.045 * unit, y - tall - 0.1 * unit, x + 0.07 * unit, y - tall), fill=shaded(wall, 0.7))
        draw.polygon(
            [(x - half - 0.025 * unit, y - tall), (x, y - tall - 0.1 * unit), (x + half + 0.025 * unit, y - tall)],
            fill=roof,
        )
        draw.rectangle((x - 0.02 * unit, y - 0.07 * unit, x + 0.02 * unit, y), fill=(112, 74, 50))
        for side in (-1, 1):
            middle = x + side * 0.06 * unit
            draw.rectangle((middle - 0.018 * unit, y - 0.085 * unit, middle + 0.018 * unit, y - 0.05 * unit), fill=pane)

    canvas.draw(house)


def _boat(canvas: Canvas, x: float, y: float, size: float, sail: RGB) -> None:
    def boat(draw: ImageDraw.ImageDraw) -> None:
        draw.polygon(
            [
                (x - size, y - 0.3 * size),
                (x + size, y - 0.3 * size),
                (x + 0.62 * size, y + 0.16 * size),
                (x - 0.66 * size, y + 0.16 * size),
            ],
            fill=(104, 66, 44),
        )
        draw.rectangle((x - 0.05 * size, y - 2.1 * size, x + 0.03 * size, y - 0.3 * size), fill=(70, 48, 36))
        draw.polygon(
            [
                (x + 0.08 * size, y - 2.05 * size),
                (x + 0.95 * size, y - 0.48 * size),
                (x + 0.08 * size, y - 0.48 * size),
            ],
            fill=sail,
        )
        draw.polygon(
            [(x - 0.12 * size, y - 1.8 * size), (x - 0.75 * size, y - 0.48 * size), (x - 0.12 * size, y - 0.48 * size)],
            fill=shaded(sail, 0.86),
        )

    canvas.draw(boat)


def _lighthouse(canvas: Canvas, x: float, dark: bool) -> None:
    unit, y = canvas.unit, canvas.height * 0.74
    white = (190, 190, 196) if dark else (244, 242, 238)

    def tower(draw: ImageDraw.ImageDraw) -> None:
        draw.polygon(
            [
                (x - 0.15 * unit, y + 0.03 * unit),
                (x - 0.08 * unit, y - 0.035 * unit),
                (x + 0.07 * unit, y - 0.04 * unit),
                (x + 0.15 * unit, y + 0.03 * unit),
            ],
            fill=(84, 78, 78),
        )
        for part in range(5):
            low, high = part / 5, (part + 1) / 5
            at = [
                (x + side * (0.046 - 0.016 * share) * unit, y - (0.035 + 0.3 * share) * unit)
                for side, share in ((-1, low), (-1, high), (1, high), (1, low))
            ]
            draw.polygon(at, fill=(200, 52, 46) if part % 2 else white)
        top = y - 0.335 * unit
        draw.rectangle((x - 0.026 * unit, top - 0.04 * unit, x + 0.026 * unit, top), fill=(255, 228, 130))
        draw.polygon(
            [(x - 0.038 * unit, top - 0.04 * unit), (x, top - 0.075 * unit), (x + 0.038 * unit, top - 0.04 * unit)],
            fill=(170, 44, 40),
        )

    canvas.draw(tower)
