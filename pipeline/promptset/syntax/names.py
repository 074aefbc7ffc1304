"""The names under which prompts know LoRAs and embeddings: id, file name with or without its ending, alias."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from pipeline.promptset.syntax.parsed import BadSyntax, Inversion, Span

_ENDINGS = (".safetensors", ".pt", ".ckpt", ".bin")
_EXPLICIT = r"(?<![^\W_])embedding:\s*([^\s,()\[\]<>|]*[^\s,()\[\]<>|.;:!?])"
_WORD = re.compile(r"[^\W\d_]+|\d")


class Listed(Protocol):
    """An entry of an allow-list, as far as its names go."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names, its file's among them."""


@dataclass(frozen=True)
class Names:
    """Ids of an allow-list by every name that they have; case does not count where only one fits."""

    ids: Mapping[str, str]
    lowered: Mapping[str, str]

    @classmethod
    def of(cls, listed: Mapping[str, Listed]) -> Names:
        """The names of an allow-list. An id goes before an alias, and the first alias before a second."""
        ids: dict[str, str] = {}
        for name in listed:
            ids[name] = name
        for name, entry in listed.items():
            for alias in entry.aliases:
                ids.setdefault(alias, name)
        lowered: dict[str, str] = {}
        for alias, name in ids.items():
            lowered.setdefault(alias.lower(), name)
        return cls(ids, lowered)

    def find(self, name: str) -> str | None:
        """The id under this name; folders before it and its ending do not count."""
        plain = name.strip()
        for tried in (plain, PurePosixPath(plain.replace("\\", "/")).name, stem(plain)):
            if (found := self.ids.get(tried) or self.lowered.get(tried.lower())) is not None:
                return found
        return None

    def nearest(self, name: str) -> str:
        """What a message says of a name that is not there: the nearest ones, or all if they are few."""
        near = difflib.get_close_matches(stem(name).lower(), self.lowered, n=3, cutoff=0.5)
        ids = list(dict.fromkeys(self.lowered[one] for one in near))
        if ids:
            return f"nearest {', '.join(ids)}"
        listed = sorted(set(self.ids.values()))
        return f"allowed are {', '.join(listed[:10])}" + (", ..." if len(listed) > 10 else "") if listed else "none is"


def stem(name: str) -> str:
    """A file's name without folders and ending."""
    plain = PurePosixPath(name.strip().replace("\\", "/")).name
    ending = next((one for one in _ENDINGS if plain.lower().endswith(one)), "")
    return plain[: len(plain) - len(ending)]


class Inversions:
    """The embeddings of an allow-list, found in texts."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._in_text = re.compile(
            "|".join((_EXPLICIT, *map(_as_words, sorted(names.ids, key=len, reverse=True)))), re.I
        )
        self._words = {found[0].lower() if (found := _WORD.search(name)) else "" for name in names.ids}

    def in_words(self, span: Span) -> Iterable[Span | Inversion]:
        """The span with embeddings in place of their names, which stand as words, or behind `embedding:`.

        As A1111 finds them: anywhere, whatever the case, between words. Raises BadSyntax for `embedding:` with a name
        that is not on the list.
        """
        text, done = span.text, 0
        for match in self._in_text.finditer(text) if self.any_in(text) else ():
            name = self.required(match[1]) if match[1] else self.names.find(" ".join(match[0].split()))
            if name is None:
                continue
            if done < match.start():
                yield Span(text[done : match.start()], span.weight)
            yield Inversion(name, span.weight)
            done = match.end()
        if done < len(text) or not text:
            yield Span(text[done:], span.weight)

    def any_in(self, text: str) -> bool:
        """Whether a text may name one."""
        lowered = text.lower()
        if "embedding:" in lowered:
            return True
        return bool(self._words) and ("" in self._words or not self._words.isdisjoint(_WORD.findall(lowered)))

    def required(self, name: str) -> str:
        """The id under this name. Raises BadSyntax."""
        found = self.names.find(name)
        if found is None:
            raise BadSyntax(f"embedding {name[:80]!r} is not on the allow-list; {self.names.nearest(name)}")
        return found


def _as_words(name: str) -> str:
    """A name where the tokenizer would see it: letters end at what is no letter, signs at what is no sign."""
    escaped = r"\s+".join(re.escape(part) for part in name.split())
    return rf"{_apart(name[:1], before=True)}{escaped}{_apart(name[-1:], before=False)}"


def _apart(character: str, *, before: bool) -> str:
    kind = r"[^\W\d_]" if character.isalpha() else "" if character.isdigit() else r"[^\w\s]"
    return "" if not kind else rf"(?<!{kind})" if before else rf"(?!{kind})"


NO_INVERSIONS = Inversions(Names({}, {}))
