"""What a message says of a sampler or a schedule that nobody knows: which one may be meant, if any comes near."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pipeline.promptset.names.sampler_names import (
    ABSENT,
    ABSENT_SCHEDULES,
    AUTOMATIC,
    NAMES,
    SCHEDULES,
    key_of,
    sampler_of,
    schedule_of,
)

NEAR = 0.7  # by difflib's ratio; below, what comes nearest is chance
_NOTHING = frozenset({"none", "null", "nil", "na", "n/a", "nan", "undefined", *AUTOMATIC})
_LEAVE_OUT = "leave it out for the model's own, or say one, as Euler"
# Of flow models (FLUX, SD 3): Euler and the others under a name of theirs.
_FLOW = re.compile(r"flow|rectified|(?:^|[\W_])rf(?=[\W_]|$)", re.IGNORECASE)
_FILLERS = re.compile(r"match|discrete|scheduler|sampler|matching|[^\w+]", re.IGNORECASE)
# What class names have beside the name itself, which tells none of them apart.
_OF_CLASSES = re.compile(r"^(?:diffusers|schedulers|comfy|k_?diffusion)\.|(?:scheduler|sampler)$", re.IGNORECASE)


def unknown_sampler(name: str, classes: Iterable[str]) -> str:
    """Why this is no sampler, and what may be meant.

    Args:
        name: as it was written.
        classes: diffusers classes that a row may name.
    """
    found = f"{name.strip()[:60]!r}"
    if not name.strip():
        return f"is empty; {_LEAVE_OUT}"
    if key_of(name.strip()) in _NOTHING:
        return f"{found} is no sampler; {_LEAVE_OUT}"
    if (schedule := schedule_of(name)) is not None:
        return f"{found} is a schedule; a sampler wanted with it, as Euler {ABSENT_SCHEDULES.get(schedule, schedule)}"
    if _FLOW.search(name):
        near = _near(_FILLERS.sub(" ", _FLOW.sub(" ", name)), NAMES)
        return f"{found} cannot be used: it is for flow models, and SDXL is none; the nearest is {near or 'Euler'}"
    near = _near(name, [*NAMES, *ABSENT, *classes])
    if near is not None and near in ABSENT:
        why, instead = ABSENT[near]
        return f"{found} is no scheduler; {near} is none either: {why}. The nearest is {instead}"
    meant = f"did you mean {near}? " if near else ""
    return f"{found} is no scheduler; {meant}known are {', '.join(NAMES)}, and their diffusers classes"


def unknown_schedule(name: str) -> str:
    """Why this is no schedule, and what may be meant."""
    if not name.strip():
        return "an empty schedule found; leave it out, or say one, as Karras"
    near = _near(name, [*SCHEDULES, *ABSENT_SCHEDULES])
    instead = ABSENT_SCHEDULES.get(near or "", near)
    meant = f"did you mean {instead}? " if instead else ""
    return f"{name.strip()[:60]!r} is no schedule; {meant}known are {', '.join(SCHEDULES)}, Automatic"


def is_sampler(name: str) -> bool:
    """Whether this names a sampler, also one that there is none of here."""
    try:
        return sampler_of(name) is not None
    except ValueError:
        return True


def _near(name: str, known: Iterable[str]) -> str | None:
    """The name that comes near this one: it begins with it as a word does, or differs in some letters."""
    keys = {_bare(one): one for one in reversed([*known])}  # of equal ones the first
    key = _bare(name[:100])
    if len(key) > 2 and (begun := [one for one in keys if one.startswith(key)]):
        return keys[min(begun, key=len)]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=NEAR)
    return keys[near[0]] if near else None


def _bare(name: str) -> str:
    plain = name.strip()
    while (shorter := _OF_CLASSES.sub("", plain)) != plain:
        plain = shorter
    return key_of(plain)
