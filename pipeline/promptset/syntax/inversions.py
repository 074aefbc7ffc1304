"""Embeddings (textual inversions) in prompts: by `embedding:name`, or as A1111 finds them, by their bare name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.deployment.allow_lists import Names
from pipeline.promptset.syntax.parsed import BadSyntax, Inversion, Span

_EXPLICIT = r"(?<![^\W_])embedding:\s*([^\s,()\[\]<>|]*[^\s,()\[\]<>|.;:!?])"
_WORD = re.compile(r"[^\W\d_]+|\d")


class Inversions:
    """The embeddings of an allow-list, found in texts."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._in_text = re.compile("|".join((_EXPLICIT, *map(_as_words, sorted(names, key=len, reverse=True)))), re.I)
        self._words = {found[0].lower() if (found := _WORD.search(name)) else "" for name in names}

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


NO_INVERSIONS = Inversions(Names({}))
