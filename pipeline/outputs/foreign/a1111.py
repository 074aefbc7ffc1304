"""Files of AUTOMATIC1111's web UI and its kin: Forge, SD.Next, reForge, Civitai's generator, Fooocus in its scheme."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.outputs.foreign.found import ForeignPicture, shown
from pipeline.promptset.formats.infotext import parse_infotext


def read(texts: Mapping[str, str]) -> ForeignPicture | None:
    """The picture of an infotext in `parameters` or the EXIF; None if there is none."""
    for name in ("parameters", "UserComment", "ImageDescription"):
        found = parse_infotext(texts[name]) if name in texts else None
        if found is not None:
            syntax = {"syntax": "a1111"}  # what it paints is what its brackets say
            return ForeignPicture(
                _program(texts[name]),
                {**syntax, **found.fields},
                tuple(map(shown, found.left_out)),
                found.model,
                found.model_hash,
            )
    return None


def _program(text: str) -> str:
    version = text.rpartition("Version: ")[2].split(",")[0].strip()
    for mark, program in (("f", "Forge "), ("v", "A1111 "), ("Fooocus", ""), ("ComfyUI", "")):
        if version.startswith(mark):
            return f"{program}{shown(version)}"[:60]
    return "A1111's form"
