"""Several named things of a row with their settings, as objects, and as a text may say them.

`canny, image=house.png, scale=0.7; depth, image=d.png` are two objects, each with its name first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.promptset.fields.shorthand import shortened


@dataclass(frozen=True)
class NamedObjects:
    """How the objects of one field are written.

    Attributes:
        name: the key of what comes first in a text.
        numbers: keys whose values are numbers.
        others: other tools' names of keys.
        most: objects that the field takes.
    """

    name: str
    numbers: tuple[str, ...]
    others: Mapping[str, str]
    most: int

    def read(self, value: object) -> object:
        """Objects from a text, an object, or a list of objects; one more than it takes at most. Raises ValueError."""
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise ValueError(f"{shortened(value)} found, which is no JSON") from None
        if isinstance(value, str):
            return [self._of_text(part) for part in value.split(";") if part.strip()]
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, Sequence):
            return value  # the field refuses it
        return [self._of_text(one) if isinstance(one, str) else self._renamed(one) for one in value[: self.most + 1]]

    def _of_text(self, text: str) -> dict[str, Any]:
        name, *rest = (part.strip() for part in text.split(","))
        found: dict[str, Any] = {self.name: name}
        for part in rest:
            key, equals, value = part.partition("=")
            if not equals:
                raise ValueError(f"{shortened(part)} found; NAME, image=PATH, scale=0.8, ... wanted")
            found[key.strip()] = value.strip()
        found = self._renamed(found)
        for key in self.numbers:
            if key in found:
                try:
                    found[key] = float(found[key])
                except ValueError:
                    raise ValueError(f"{key} {shortened(found[key])} found; a number wanted") from None
        return found

    def _renamed(self, one: Any) -> Any:
        """With our own names; what has two is left as it is, and refused."""
        if not isinstance(one, Mapping):
            return one
        own = ((self.others.get(key, key), key, value) for key, value in one.items())
        return {name if name not in one else key: value for name, key, value in own}
