"""Files of NovelAI: the prompt is PNG's `Description`, all else JSON in `Comment`."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.outputs.foreign.found import ForeignPicture, Found, NotCarriedOver, parsed_json

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
    found = Found({"prompt": prompt, "negative_prompt": str(given.get("uc") or "")})
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
    if "{" in prompt or "[" in prompt:
        found.leave_out("weights of { } and [ ], which are read as they stand")
    for name, value in given.items():
        if name not in _READ | _SAYS_NOTHING and value not in (None, False, "", 0, 0.0, [], {}):
            found.leave_out(f"{name} {value}")
    return ForeignPicture("NovelAI", found.row, tuple(found.left_out), texts.get("Source"))
