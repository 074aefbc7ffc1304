"""Alpha through rank: from a file's own tensors, or from peft's settings in its header."""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pipeline.loras.kinds import AdapterKind

MOST_PATTERNS = 10_000
MOST_REPEATS = 4
_LITERAL = re.compile(r"[\w.]+")


class BadPattern(ValueError):
    """A pattern of peft's settings that is no regular expression, or one that could take for ever."""


class _Pattern:
    """peft's `alpha_pattern`: regular expressions that end a module's name, the first that matches decides."""

    def __init__(self, patterns: Mapping[str, Any]) -> None:
        if len(patterns) > MOST_PATTERNS:
            raise BadPattern(f"found {len(patterns):,} patterns, at most {MOST_PATTERNS:,} wanted")
        self._alphas = list(patterns.values())
        self._literals: dict[str, int] = {}
        self._expressions: list[tuple[int, re.Pattern[str]]] = []
        for place, pattern in enumerate(patterns):
            if _LITERAL.fullmatch(pattern):
                self._literals.setdefault(pattern, place)
            else:
                self._expressions.append((place, _compiled(pattern)))

    def alpha(self, names: tuple[str, ...]) -> Any:
        """What is set for a module under any of its names; None if nothing is."""
        found = [self._literals[end] for name in names for end in _ends(name) if end in self._literals]
        found += [place for place, pattern in self._expressions if any(map(pattern.fullmatch, names))]
        return self._alphas[min(found)] if found else None


class PeftSettings:
    """What peft says about one part of the pipeline.

    Args:
        settings: the header's object, with keys as `unet.lora_alpha`.
        part: which part.

    Raises:
        BadPattern.
    """

    def __init__(self, settings: Mapping[str, Any], part: str) -> None:
        self._alpha = settings.get(f"{part}.lora_alpha")
        self._by_root = bool(settings.get(f"{part}.use_rslora"))
        patterns = settings.get(f"{part}.alpha_pattern")
        self._pattern = _Pattern(patterns if isinstance(patterns, Mapping) else {})

    def scaling(self, name: str, rank: int) -> float | None:
        """Alpha through rank, or through its root; None if peft says nothing. `name` is the module's in its part."""
        alpha = self._pattern.alpha((name, f"text_model.{name}"))
        alpha = self._alpha if alpha is None else alpha
        if not isinstance(alpha, int | float) or isinstance(alpha, bool):
            return None
        try:
            return float(alpha) / (math.sqrt(rank) if self._by_root else rank)
        except OverflowError as error:
            raise BadPattern(f"an alpha of peft's settings has {len(str(alpha)):,} digits") from error


def rank_of(kind: AdapterKind, sides: Mapping[str, Tensor]) -> int | None:
    """What alpha is divided by; None where alpha says nothing."""
    named = {
        AdapterKind.LORA: ("down",),
        AdapterKind.CP: ("down",),
        AdapterKind.LOHA: ("hada_w1_b",),
        AdapterKind.LOKR: ("lokr_w2_b", "lokr_w1_b"),
        AdapterKind.GLORA: ("glora_a2",),
    }
    return next((sides[name].shape[0] for name in named.get(kind, ()) if name in sides and sides[name].ndim), None)


def _ends(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as peft matches it. Files come from anywhere, and Python's matcher cannot be stopped."""
    bare = re.sub(r"\\.", "", pattern)
    if len(pattern) > 1000 or len(re.findall(r"[*+{]", bare)) > MOST_REPEATS or re.search(r"\)[*+{]", bare):
        raise BadPattern(
            f"found {pattern[:80]!r}; at most 1,000 characters, {MOST_REPEATS} repetitions and no repeated group wanted"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # of what a later Python would read otherwise
            return re.compile(rf"(?:.*\.)?(?:{pattern})")
    except (re.error, RecursionError, OverflowError) as error:
        raise BadPattern(f"{pattern[:80]!r} is no regular expression: {error}") from error
