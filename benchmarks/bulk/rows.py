"""A large prompt set as users have them: prompts of some twenty words, ids, several sizes, some metadata."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

_SUBJECTS = ("a harbour", "an old observatory", "a fox in the snow", "a market street", "a glass greenhouse", "a ferry")
_LIGHTS = ("at dawn", "under a full moon", "in heavy rain", "in the golden hour", "lit by lanterns", "in thick fog")
_STYLES = ("oil on canvas", "35 mm photograph", "watercolour", "ukiyo-e print", "matte painting", "pencil sketch")
_DETAILS = ("sharp focus", "soft grain", "muted colours", "long shadows", "wide angle", "shallow depth of field")
_SIZES = ((1024, 1024), (832, 1216), (1216, 832), (1344, 768), (768, 1344))


def write_rows(path: Path, rows: int, seed: int = 1) -> int:
    """Write so many rows as JSON Lines; the same seed gives the same file. Returns its size in bytes."""
    with path.open("w") as file:
        file.writelines(_lines(rows, random.Random(seed)))
    return path.stat().st_size


def _lines(rows: int, chance: random.Random) -> Iterator[str]:
    for number in range(rows):
        width, height = chance.choice(_SIZES)
        parts = (_SUBJECTS, _LIGHTS, _STYLES, _DETAILS)
        prompt = (
            ", ".join(chance.choice(part) for part in parts) + f", study number {number} of a series, highly detailed"
        )
        row = {
            "custom_id": f"study-{number:07d}",
            "prompt": prompt,
            "negative_prompt": "blurry, low quality, watermark",
            "width": width,
            "height": height,
            "seed": number,
            "metadata": {"series": number // 1000},
        }
        yield json.dumps(row) + "\n"
