"""The atomic steps: one Lua file each, which is given our key names as a table, and its arguments by name.

A file's first line of code says what it takes: `local ref, fence = unpack(ARGV)`, or `unpack(ARGV, 1, 2)` if any number
of others follow, which it then reads with `arguments_after(2)`. Callers give the same names; the order is the file's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pipeline.ledger.keys import BITS_PER_IMAGE, EVENTS_KEPT, PRIORITY_STEP, lua_keys

Argument = str | int | float

_TAKES = re.compile(r"^local ([a-z_]+(?:,\s+[a-z_]+)*)\s*=\s+unpack\(ARGV(?:, 1, (\d+))?\)$", re.MULTILINE)

_NAMED_KEY = re.compile(r"\bkeys\.([a-z]+)")

_CONSTANTS = f"""
local EVENTS_KEPT = {EVENTS_KEPT}
local PRIORITY_STEP = {PRIORITY_STEP}
local IMAGE_BITS = 'u{BITS_PER_IMAGE}'
"""


@dataclass(frozen=True)
class Script:
    """One atomic step: its source as Redis gets it, the arguments that it names, and whether others may follow."""

    name: str
    source: str
    takes: tuple[str, ...]
    more: bool

    def arguments(self, named: Mapping[str, Argument], more: Sequence[Argument]) -> list[Argument]:
        """The arguments in the order of its file. Raises TypeError if one is missing or unknown."""
        if named.keys() != set(self.takes) or (more and not self.more):
            raise TypeError(f"{self.name}.lua takes {', '.join(self.takes)}; {', '.join(named)} and {len(more)} found")
        return [*(named[name] for name in self.takes), *more]


@cache
def script(name: str) -> Script:
    """The atomic step of this name."""
    folder = files("pipeline.ledger") / "lua"
    text = (folder / f"{name}.lua").read_text()
    takes = _TAKES.search(text)
    if takes is None:
        raise ValueError(f"{name}.lua does not begin with what it takes: local ... = unpack(ARGV)")
    names = tuple(re.split(r",\s+", takes[1]))
    if takes[2] and int(takes[2]) != len(names):
        raise ValueError(f"{name}.lua names {len(names)} arguments and takes {takes[2]}")
    code = (folder / "prelude.lua").read_text() + text
    # Only the keys that it uses: each costs a tenth of a microsecond, of the twenty that a step takes.
    source = lua_keys(set(_NAMED_KEY.findall(code))) + _CONSTANTS + code
    return Script(name, source, names, more=takes[2] is not None)
