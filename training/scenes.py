"""What a training picture shows, drawn by lot from a seed, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from zlib import crc32

PLACES = ("on the left", "in the middle", "on the right")
TWIN_SEEDS = 700_000  # the scenes of twins begin here
NUMBERS = ("no", "one", "two", "three", "four", "five")

# RGB of what a colour word means; `paint` varies it a little from picture to picture.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 44),
    "orange": (240, 140, 46),
    "yellow": (246, 216, 78),
    "green": (78, 158, 74),
    "blue": (62, 112, 206),
    "turquoise": (70, 196, 190),
    "purple": (126, 72, 168),
    "pink": (240, 150, 184),
    "white": (246, 246, 244),
    "grey": (146, 150, 156),
    "black": (38, 38, 48),
    "brown": (134, 94, 62),
    "golden": (232, 182, 72),
}
# Top and horizon of the sky at a time of day.
TIMES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "dawn": ((96, 104, 172), (250, 196, 186)),
    "sunrise": ((128, 176, 226), (254, 206, 140)),
    "noon": ((64, 140, 232), (186, 220, 250)),
    "sunset": ((120, 62, 136), (252, 146, 62)),
    "dusk": ((48, 50, 112), (178, 112, 156)),
    "night": ((10, 14, 44), (42, 54, 108)),
}
SKIES = ("blue", "orange", "pink", "purple", "yellow", "turquoise", "grey", "red", "green", "black")
LAND_COLOURS: dict[str, tuple[str, ...]] = {
    "mountains": ("blue", "grey", "purple", "brown", "green", "black", "red", "orange", "pink", "turquoise", "white"),
    "hills": ("green", "brown", "yellow", "purple", "blue", "orange", "red", "pink", "turquoise"),
    "city": ("grey", "black", "blue", "purple", "brown", "red", "turquoise", "orange"),
    "sea": ("blue", "turquoise", "green", "grey", "purple", "orange", "pink", "black"),
    "dunes": ("golden", "orange", "yellow", "red", "white", "brown", "pink"),
}
LANDS = tuple(LAND_COLOURS)
LIGHT_COLOURS: dict[str, tuple[str, ...]] = {
    "sun": ("red", "orange", "yellow", "white", "pink", "golden"),
    "moon": ("white", "yellow", "orange", "red", "blue", "grey"),
    "crescent moon": ("white", "yellow", "orange", "red", "blue", "turquoise"),
}
NATURAL = {"mountains": "blue", "hills": "green", "city": "grey", "sea": "blue", "dunes": "golden"}
ALIKE = (
    {"yellow", "golden", "white"},
    {"orange", "golden", "red"},
    {"grey", "white"},
    {"blue", "turquoise", "purple"},
    {"black", "purple"},
    {"black", "blue"},
    {"brown", "orange", "red"},
    {"pink", "purple"},
    {"pink", "red"},
    {"orange", "yellow"},
    {"green", "turquoise"},
    {"brown", "black"},
    {"grey", "black"},
    {"grey", "blue"},
)


@dataclass(frozen=True)
class Light:
    """Sun or moon: its kind, colour, place (an index into PLACES) and size (-1 small, 0, 1 big)."""

    kind: str
    colour: str
    place: int
    size: int


@dataclass(frozen=True)
class Scene:
    """One picture's content; `paint` needs nothing else but a size.

    Attributes:
        seed: of everything that the words leave open.
        sky: a word of SKIES or TIMES.
        light: sun or moon, if any.
        clouds, cloud_colour: how many, 0 to 3.
        stars: whether there are some.
        land, colour: what fills the lower half, and its colour.
        snow: on the mountains' tops.
        front: "", or "meadow" or "lake" before mountains; `front_colour` is its colour.
        trees, tree_kind, tree_colour: 0 to 5 round or pine trees in front.
        house: a house's place, or None; `roof` is the colour of its roof.
        boats, sail: how many on the sea, 0 to 3, and the colour of their sails; `boat_place` of a single one.
        lighthouse: its place in the sea, or None.
    """

    seed: int
    sky: str
    light: Light | None
    clouds: int
    cloud_colour: str
    stars: bool
    land: str
    colour: str
    snow: bool
    front: str
    front_colour: str
    trees: int
    tree_kind: str
    tree_colour: str
    house: int | None
    roof: str
    boats: int
    sail: str
    boat_place: int
    lighthouse: int | None

    @property
    def dark(self) -> bool:
        """Whether the sky is a night's."""
        return self.sky in ("night", "black", "dusk")


def alike(first: str, second: str) -> bool:
    """Whether two colours are hard to tell from each other side by side."""
    return first == second or any({first, second} <= group for group in ALIKE)


def sky_colours(sky: str) -> tuple[str, ...]:
    """The colour words that a sky is made of."""
    of_time = {
        "dawn": ("purple", "pink"),
        "sunrise": ("blue", "yellow"),
        "noon": ("blue",),
        "sunset": ("purple", "orange"),
        "dusk": ("blue", "purple"),
        "night": ("black", "blue"),
    }
    return of_time.get(sky, (sky,))


def drawn(seed: int) -> Scene:
    """The scene of a seed, for training: never a combination that is held out."""
    return next(scene for scene in _tries(seed) if not held_out(scene))


def drawn_held_out(seed: int) -> Scene:
    """The scene of a seed whose combination of sky, light and land no training picture shows."""
    return next(scene for scene in _tries(seed) if held_out(scene))


def twin(number: int) -> Scene:
    """Twins 2n and 2n + 1 are one scene of training, its sun or moon on the left and on the right."""
    for scene in _tries(TWIN_SEEDS + number // 2):
        if scene.light is not None:
            both = [replace(scene, light=replace(scene.light, place=place)) for place in (0, 2)]
            if not any(map(held_out, both)):
                return both[number % 2]
    raise AssertionError("tries do not end")


def held_out(scene: Scene) -> bool:
    """Whether this combination of sky, light and land is kept from training: one in sixteen, by its words alone."""
    light = scene.light and (scene.light.kind, scene.light.colour, scene.light.place)
    words = f"{scene.sky} {light} {scene.land} {scene.colour}"
    return crc32(words.encode()) % 16 == 0


def _tries(seed: int) -> Iterator[Scene]:
    return (_scene(seed, Random(f"scene {seed} {attempt}")) for attempt in count())


def _scene(seed: int, lot: Random) -> Scene:
    sky = lot.choice(SKIES) if lot.random() < 0.62 else lot.choice(tuple(TIMES))
    land = lot.choice(LANDS)
    colour = NATURAL[land] if lot.random() < 0.15 else lot.choice(LAND_COLOURS[land])
    if colour in sky_colours(sky):
        colour = lot.choice(
            [other for other in LAND_COLOURS[land] if not any(alike(other, s) for s in sky_colours(sky))]
        )
    light = _light(lot, sky)
    dark = sky in ("night", "black", "dusk")
    front = lot.choice(("meadow", "lake")) if land == "mountains" and lot.random() < 0.4 else ""
    front_colour = lot.choice(
        ("green", "green", "yellow", "brown") if front == "meadow" else ("blue", "turquoise", "blue")
    )
    grows = land in ("hills", "city") or front == "meadow"
    trees = lot.randint(1, 5) if grows and lot.random() < 0.55 else 0
    house = lot.randrange(3) if (land in ("hills", "dunes") or front == "meadow") and lot.random() < 0.3 else None
    boats = lot.randint(1, 3) if land == "sea" and lot.random() < 0.5 else 0
    return Scene(
        seed=seed,
        sky=sky,
        light=light,
        clouds=lot.randint(1, 3) if lot.random() < 0.3 and sky != "night" else 0,
        cloud_colour=lot.choice([c for c in ("white", "white", "pink", "grey") if c != sky]),
        stars=dark and lot.random() < 0.65,
        land=land,
        colour=colour,
        snow=land == "mountains" and colour != "white" and lot.random() < 0.35,
        front=front,
        front_colour=front_colour,
        trees=trees,
        tree_kind=lot.choice(("tree", "pine tree")),
        tree_colour=lot.choice(
            [c for c in ("green", "green", "orange", "red", "pink", "yellow") if c not in (colour, front_colour)]
        ),
        house=house,
        roof=lot.choice(("red", "blue", "brown", "orange")),
        boats=boats,
        sail=lot.choice([c for c in ("white", "red", "yellow", "orange", "black") if c != colour]),
        boat_place=lot.randrange(3),
        lighthouse=lot.randrange(3) if land == "sea" and boats == 0 and lot.random() < 0.35 else None,
    )


def _light(lot: Random, sky: str) -> Light | None:
    if lot.random() < 0.1:
        return None
    night = sky in ("night", "black", "dusk")
    kind = lot.choice(("moon", "crescent moon", "sun") if night else ("sun", "sun", "sun", "moon", "crescent moon"))
    colours = [c for c in LIGHT_COLOURS[kind] if not any(alike(c, of_sky) for of_sky in sky_colours(sky))]
    return Light(kind, lot.choice(colours), lot.randrange(3), lot.choice((-1, 0, 0, 0, 1)))


def caption(scene: Scene, lot: Random) -> str:
    """A sentence about the scene; which of its traits it names, in which words and order, is drawn by `lot`.

    What is named is true. What is not named may still be there, as in any caption.
    """
    land = _land_words(scene, lot)
    light = _light_words(scene, lot)
    sky = _sky_words(scene, lot)
    extras = [words for words in _extras(scene, lot) if lot.random() < 0.93]
    lot.shuffle(extras)
    way = lot.randrange(6)
    if way == 0 and light:
        first = f"{light} over {land}"
        text = _listed([first, *extras], lot) + (f" {sky.under}" if sky.under else "")
    elif way == 1:
        text = land + (f" {sky.under}" if sky.under else "")
        text += "".join(
            f" {'with' if number == 0 else 'and'} {part}" for number, part in enumerate(filter(None, [light, *extras]))
        )
    elif way == 2:
        parts = [part for part in (sky.noun, land, light, *extras) if part]
        lot.shuffle(parts)
        text = ", ".join(parts)
    elif way == 3:
        text = " and ".join(part for part in (land, light) if part)
        text = _listed([text, *extras], lot) + (f" {sky.under}" if sky.under else "")
    elif way == 4 and light:
        text = f"{light} above {land}" + "".join(f" with {part}" for part in extras[:1])
        text = _listed([text, *extras[1:]], lot) + (f", {sky.noun}" if sky.noun else "")
    else:
        text = _listed([land, *extras], lot)
        text += f", {light}" if light else ""
        text += f" {sky.under}" if sky.under else ""
    opening = lot.random()
    if opening < 0.08:
        return lot.choice(("a painting of ", "a picture of ", "an illustration of ", "a view of ")) + text
    return text


@dataclass(frozen=True)
class _Sky:
    noun: str
    under: str


def _sky_words(scene: Scene, lot: Random) -> _Sky:
    if lot.random() < 0.06:
        return _Sky("", "")
    starry = "starry " if scene.stars and lot.random() < 0.5 else ""
    if scene.sky in TIMES:
        time = scene.sky
        if time == "night" and (starry or lot.random() < 0.3):
            return _Sky(f"a {starry}night sky", f"under a {starry}night sky")
        return _Sky({"sunset": "sunset", "sunrise": "sunrise"}.get(time, time), f"at {time}")
    clear = "clear " if not scene.clouds and not starry and lot.random() < 0.05 else ""
    noun = _a(f"{starry}{clear}{scene.sky} sky")
    return _Sky(noun, f"{lot.choice(('under', 'under', 'under', 'below', 'against'))} {noun}")


def _light_words(scene: Scene, lot: Random) -> str:
    if scene.light is None:
        return ""
    light = scene.light
    size = {-1: lot.choice(("small ", "small ", "little ")), 0: "", 1: lot.choice(("big ", "big ", "large ", "huge "))}[
        light.size
    ]
    colour = f"{light.colour} " if lot.random() < 0.9 else ""
    kind = light.kind
    if kind == "moon" and lot.random() < 0.2:
        kind = "full moon"
    place = f" {_place(light.place, lot)}" if lot.random() < 0.85 else ""
    return _a(f"{size}{colour}{kind}") + place


def _land_words(scene: Scene, lot: Random) -> str:
    colour = f"{scene.colour} " if lot.random() < 0.92 else ""
    if scene.land == "mountains":
        snow = "snowy " if scene.snow and lot.random() < 0.6 else ""
        tops = " with snowy peaks" if scene.snow and not snow else ""
        words = f"{snow}{colour}{lot.choice(('mountains', 'mountains', 'mountains', 'peaks'))}{tops}"
        if scene.front:
            front = _a(f"{scene.front_colour + ' ' if lot.random() < 0.85 else ''}{scene.front}")
            words += f" {lot.choice(('behind', 'and'))} {front}"
        return words
    if scene.land == "city":
        return _a(f"{colour}{lot.choice(('city', 'city', 'city', 'skyline', 'city skyline', 'town'))}")
    if scene.land == "sea":
        noun = f"{lot.choice(('calm ', '', '', ''))}{colour}{lot.choice(('sea', 'sea', 'sea', 'ocean', 'water'))}"
        return noun if noun.endswith("water") else lot.choice((_a(noun), f"the {noun}"))
    if scene.land == "hills":
        return f"{lot.choice(('', '', '', 'rolling '))}{colour}hills"
    return f"{colour}{lot.choice(('dunes', 'dunes', 'sand dunes', 'desert dunes'))}"


def _extras(scene: Scene, lot: Random) -> list[str]:
    found = []
    if scene.clouds:
        colour = f"{scene.cloud_colour} " if lot.random() < 0.8 else ""
        found.append(_counted(scene.clouds, f"{colour}cloud", lot))
    if scene.trees:
        colour = f"{scene.tree_colour} " if lot.random() < 0.9 else ""
        kind = scene.tree_kind if scene.tree_kind == "tree" or lot.random() < 0.7 else "pine"
        found.append(_counted(scene.trees, f"{colour}{kind}", lot))
    if scene.house is not None:
        roof = f" with a {scene.roof} roof" if lot.random() < 0.7 else ""
        found.append(f"a house{roof} {_place(scene.house, lot)}".replace("a orange", "an orange"))
    if scene.boats:
        sail = f" with {scene.sail} sails" if lot.random() < 0.7 else ""
        if scene.boats == 1:
            sail = f" with a {scene.sail} sail".replace("a orange", "an orange") if sail else ""
            place = f" {_place(scene.boat_place, lot)}" if lot.random() < 0.8 else ""
            found.append(f"a {lot.choice(('boat', 'boat', 'sailing boat'))}{sail}{place}")
        else:
            found.append(_counted(scene.boats, "boat", lot) + sail)
    if scene.lighthouse is not None:
        found.append(f"a lighthouse {_place(scene.lighthouse, lot)}")
    if scene.stars and lot.random() < 0.5:
        found.append("stars")
    return found


def _place(place: int, lot: Random) -> str:
    return "in the centre" if place == 1 and lot.random() < 0.25 else PLACES[place]


def _counted(count: int, noun: str, lot: Random) -> str:
    if count == 1:
        return _a(noun) if lot.random() < 0.8 else f"one {noun}"
    return f"{NUMBERS[count]} {noun}s"


def _listed(parts: list[str], lot: Random) -> str:
    if len(parts) == 1:
        return parts[0]
    if lot.random() < 0.5:
        return ", ".join(parts)
    return f"{parts[0]} with " + " and ".join(parts[1:])


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
