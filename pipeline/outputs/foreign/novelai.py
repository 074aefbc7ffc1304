"""Files of NovelAI: the prompt is PNG's `Description`, all else JSON in `Comment`; its weights become A1111's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.outputs.foreign.found import ForeignPicture, Found, NotCarriedOver, parsed_json
from pipeline.promptset.syntax.escape import escape

EMPHASIS = 1.05  # times that for each { } around a text, through that for each [ ]
_EMPHASIS = re.compile(r"([{}\[\]])")
_CLOSES = {"}": "{", "]": "["}
_READ = frozenset(
    {"prompt", "uc", "steps", "width", "height", "scale", "seed", "sampler", "cfg_rescale", "noise_schedule"}
)
_SAYS_NOTHING = frozenset({"request_type", "signed_hash", "version", "n_samples", "legacy", "legacy_v3_extend"})


def read(texts: Mapping[str, str]) -> ForeignPicture | None:
    """The picture of NovelAI's texts; None if there are none. Raises NotCarriedOver."""
    if texts.get("Software") != "NovelAI" or "Comment" not in texts:
        return None
    given = parsed_json(texts["Comment"], "Comment")
    prompt = texts.get("Description") or (given.get("prompt") if isinstance(given, Mapping) else None)
    if not isinstance(given, Mapping) or not isinstance(prompt, str):
        raise NotCarriedOver("its Comment is no object, or it has no Description")
    if given.get("image") or given.get("strength_image"):
        raise NotCarriedOver("it was made from another picture")
    negative = str(given.get("uc") or "")
    found = Found({"prompt": prompt, "negative_prompt": negative})
    if _EMPHASIS.search(prompt + negative):
        found.row |= {"prompt": _as_a1111(prompt), "negative_prompt": _as_a1111(negative), "syntax": "a1111"}
    for name, field, kind in (
        ("steps", "steps", int),
        ("width", "width", int),
        ("height", "height", int),
        ("scale", "guidance_scale", float),
    ):
        found.put(field, given.get(name), kind)
    if given.get("cfg_rescale"):
        found.put("guidance_rescale", given["cfg_rescale"], float)
    found.seed(given.get("seed"))
    sampler, schedule = given.get("sampler"), given.get("noise_schedule")
    if isinstance(sampler, str):
        karras = schedule == "karras"
        found.row["scheduler"] = f"{sampler} karras" if karras else sampler
    for name, value in given.items():
        if name not in _READ | _SAYS_NOTHING and value not in (None, False, "", 0, 0.0, [], {}):
            found.leave_out(f"{name} {value}")
    return ForeignPicture("NovelAI", found.row, tuple(found.left_out), texts.get("Source"))


def _as_a1111(prompt: str) -> str:
    """The prompt with its weights in A1111's brackets; what closes nothing is left out, what is not closed holds on."""
    written, opened = list[str](), {"{": 0, "[": 0}
    for piece in _EMPHASIS.split(prompt):
        if piece in _CLOSES:
            opened[_CLOSES[piece]] = max(0, opened[_CLOSES[piece]] - 1)
        elif piece in opened:
            opened[piece] += 1
        elif piece:
            weight = EMPHASIS ** (opened["{"] - opened["["])
            written.append(escape(piece) if weight == 1 else f"({escape(piece)}:{weight:.5g})")
    return "".join(written)
