"""What the fields of a row may hold: bounds, and the checks that say what was found and what was wanted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.input_picture import MAX_EDGE_PX, MAX_MASK_ROUNDS, MAX_SIDE_PX
from pipeline.inputs.reference import ALPHA, parsed
from pipeline.picture import Lora
from pipeline.promptset.fields import shorthand

MAX_PROMPT_CHARACTERS = 20_000
MAX_IMAGES_PER_ROW = 1_000
MAX_LORAS = 16
DEFAULT_MASK_ROUNDS = 4  # of who says true
MAX_METADATA_CHARACTERS = 20_000
MIN_SIDE_PX = 64
# Image i of a row has seed + i, and the sum must stay inside what torch takes as a seed.
MAX_SEED = 2**63 - 1 - MAX_IMAGES_PER_ROW
# As web UIs write it: another one for each row.
ANY_SEED = -1

# Blanks of no width, marks of direction and the like, alone or among blanks.
_UNSEEN = " \t\r\n\u00a0\u00ad\u115f\u1160\u180e\u3000\u3164\ufeff\uffa0" + "".join(
    map(chr, (*range(0x2000, 0x2010), *range(0x2028, 0x2030), *range(0x205F, 0x2070)))
)
_CONTROL = re.compile(r"[^\t\n\r -~\u00a0-\U0010ffff]")


def _side(value: int) -> int:
    if not MIN_SIDE_PX <= value <= MAX_SIDE_PX:
        raise ValueError(f"{value} found; {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels wanted")
    return value


def _size(value: object) -> tuple[int, int]:
    width, height = shorthand.size(value)
    return _side(width), _side(height)


def _conditioning_size(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    width, height = shorthand.size(value)
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise ValueError(f"{width}x{height} found; 1 to {MAX_SIDE_PX} pixels wanted")
    return width, height


def _crop(value: object) -> tuple[int, int]:
    left, top = shorthand.pair(value, "left and top as 0,64 or [0, 64]")
    if not (0 <= left <= MAX_SIDE_PX and 0 <= top <= MAX_SIDE_PX):
        raise ValueError(f"{left},{top} found; 0 to {MAX_SIDE_PX} pixels wanted")
    return left, top


def _text(value: str) -> str:
    if bad := _CONTROL.search(value):
        raise ValueError(f"control character U+{ord(bad[0]):04X} found; text wanted")
    return value


def _identifier(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("printable characters without blanks at the ends wanted")
    return value


def _prompt(value: str) -> str:
    if not value.strip() or not value.strip(_UNSEEN):
        raise ValueError("empty; a text wanted")
    return _text(value)


def each_once(value: tuple[Lora, ...]) -> tuple[Lora, ...]:
    """The LoRAs themselves. Raises ValueError if one is there twice."""
    names = [lora.name for lora in value]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice[:80]!r} is there twice; add up its scales")
    return value


def _reference(value: str) -> str:
    parsed(value)
    return value


def _mask_reference(value: str) -> str:
    return ALPHA if value.lower() == ALPHA else _reference(value)


def _rounds(value: object) -> object:
    """A number of rounds, also as a text, or whether there shall be several."""
    text = str(value).strip().lower() if isinstance(value, str | bool) else ""
    if text in ("true", "false"):
        return DEFAULT_MASK_ROUNDS if text == "true" else 1
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{1,3}", text):
            raise ValueError(f"{shorthand.shortened(value)} found; a number of rounds, or true, wanted")
        return int(text)
    return value


def jpeg(value: object) -> object:
    """The name of a file format, whose other spelling is known."""
    return "jpeg" if isinstance(value, str) and value.lower() == "jpg" else lower(value)


def lower(value: object) -> object:
    """A text in small letters; anything else as it is."""
    return value.lower() if isinstance(value, str) else value


Seed = Annotated[int, Field(strict=True, ge=ANY_SEED, le=MAX_SEED)]
Side = Annotated[int, Field(strict=True), AfterValidator(_side)]
Text = Annotated[str, Field(strict=True, max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_text)]
Prompt = Annotated[str, Field(strict=True, max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_prompt)]
CustomId = Annotated[str, Field(strict=True, min_length=1, max_length=256), AfterValidator(_identifier)]
Size = Annotated[tuple[int, int], BeforeValidator(_size)]
ConditioningSize = Annotated[tuple[int, int] | None, BeforeValidator(_conditioning_size)]
EdgePx = Annotated[int, Field(strict=True, ge=0, le=MAX_EDGE_PX)]
MaskRounds = Annotated[int, BeforeValidator(_rounds), Field(strict=True, ge=1, le=MAX_MASK_ROUNDS)]
MaskReference = Annotated[str, Field(strict=True), AfterValidator(_mask_reference)]
InputReference = Annotated[str, Field(strict=True), AfterValidator(_reference)]
Crop = Annotated[tuple[int, int], BeforeValidator(_crop)]


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if any("\ud800" <= c <= "\udfff" for pair in value.items() for part in pair if isinstance(part, str) for c in part):
        raise ValueError("half of a surrogate pair found; text wanted")
    if (found := sum(len(str(part)) for pair in value.items() for part in pair)) > MAX_METADATA_CHARACTERS:
        raise ValueError(f"{found:,} characters found; at most {MAX_METADATA_CHARACTERS:,} wanted")
    return value


def _exact(value: Any) -> Any:
    for name, part in value.items() if isinstance(value, Mapping) else ():
        if type(part) is int and not -(2**63) <= part < 2**63:
            raise ValueError(f"{str(name)[:40]}: an integer beyond 64 bits found; such a number belongs into a text")
    return value


# Integers are what every reader of JSON holds exactly; pydantic would read a longer one as a float.
MetadataInteger = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Metadata = Annotated[
    dict[str, str | MetadataInteger | float | bool | None], BeforeValidator(_exact), AfterValidator(_small)
]
