"""The names under which people know the files of an allow-list: id, file name with or without its ending, alias."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Protocol

_ENDINGS = (".safetensors", ".pt", ".ckpt", ".bin")


class Listed(Protocol):
    """An entry of an allow-list, as far as its names go."""

    @property
    def names(self) -> tuple[str, ...]:
        """Those beside its id, its file's among them."""


class Names:
    """Ids of an allow-list by every name that they have; case counts only where it tells two apart.

    An id goes before another name, and of two equal names the first counts.
    """

    def __init__(self, listed: Mapping[str, Listed]) -> None:
        self._ids = {name: name for name in listed}
        for name, entry in listed.items():
            for other in entry.names:
                self._ids.setdefault(other, name)
        self._lowered: dict[str, str] = {}
        for other, name in self._ids.items():
            self._lowered.setdefault(other.lower(), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def find(self, name: str) -> str | None:
        """The id under this name; folders before it and its ending do not count."""
        plain = name.strip()
        for tried in (plain, PurePosixPath(plain.replace("\\", "/")).name, stem(plain)):
            if (found := self._ids.get(tried) or self._lowered.get(tried.lower())) is not None:
                return found
        return None

    def nearest(self, name: str) -> str:
        """What a message says of a name that is not there: the nearest ones, or what there is."""
        near = difflib.get_close_matches(stem(name).lower()[:100], self._lowered, n=3, cutoff=0.5)
        if ids := list(dict.fromkeys(self._lowered[one] for one in near)):
            return f"nearest {', '.join(ids)}"
        listed = sorted(set(self._ids.values()))
        return f"allowed are {', '.join(listed[:10]) or 'none'}" + (", ..." if len(listed) > 10 else "")


class AnyName(Names):
    """An allow-list with every name on it, each its own id."""

    def __init__(self) -> None:
        super().__init__({})

    def find(self, name: str) -> str | None:
        """The name itself."""
        return name.strip() or None


def stem(name: str) -> str:
    """A file's name without folders and ending."""
    plain = PurePosixPath(name.strip().replace("\\", "/")).name
    ending = next((one for one in _ENDINGS if plain.lower().endswith(one)), "")
    return plain[: len(plain) - len(ending)]
