"""A1111's attention brackets: `(a)`, `((a))`, `(a:1.3)`, `[a]`, `\\(`, and BREAK between parts.

Read as `parse_prompt_attention` of A1111's web UI (modules/prompt_parser.py, 1.10) does: `(` multiplies by 1.1, `[`
divides by it, an explicit weight multiplies; round and square brackets are paired apart from each other; what is not
closed holds to the end, what closes nothing is a letter. Two things are otherwise: BREAK means BREAK in brackets, too
(A1111 writes the word "break" there, with a negative weight), and a number like 1.2.3 is an error (A1111 fails).
"""

from __future__ import annotations

import re

from pipeline.promptset.syntax.parsed import MAX_DEPTH, BadSyntax, Span, Spans, checked_weight, merged

ROUND, SQUARE = 1.1, 1 / 1.1

_TOKEN = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\bBREAK\b\s*")


class _Piece:
    """A text whose weight grows as brackets around it are closed."""

    __slots__ = ("text", "weight")

    def __init__(self, text: str | None) -> None:
        self.text, self.weight = text, 1.0  # a text of None is BREAK


def parts_of(text: str) -> tuple[Spans, ...]:
    """The parts between BREAKs, each with its spans; at least one. Raises BadSyntax."""
    pieces: list[_Piece] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    closed: list[tuple[int, int, float]] = []  # pieces from, to, times

    def close(kind: str, factor: float) -> None:
        closed.append((opened[kind].pop(), len(pieces), factor))

    for match in _TOKEN.finditer(text):
        sign, number = match[0], match[1]
        if sign[0] == "\\":
            pieces.append(_Piece(sign[1:]))
        elif sign in opened:
            opened[sign].append(len(pieces))
            if len(opened["("]) + len(opened["["]) > MAX_DEPTH:
                raise BadSyntax(f"brackets in brackets, more than {MAX_DEPTH} deep or not closed; fewer wanted")
        elif number is not None and opened["("]:
            close("(", _number(number))
        elif sign == ")" and opened["("]:
            close("(", ROUND)
        elif sign == "]" and opened["["]:
            close("[", SQUARE)
        else:
            *before, last = _BREAK.split(sign)
            for part in before:
                pieces += [_Piece(part.rstrip()), _Piece(None)]
            pieces.append(_Piece(last))
    closed += [(first, len(pieces), ROUND) for first in opened["("]]
    closed += [(first, len(pieces), SQUARE) for first in opened["["]]
    for first, end, factor in closed:  # at most MAX_DEPTH of them around one piece
        for piece in pieces[first:end]:
            piece.weight *= factor
    return _split(pieces)


def _split(pieces: list[_Piece]) -> tuple[Spans, ...]:
    parts: list[list[Span]] = [[]]
    for piece in pieces:
        if piece.text is None:
            parts.append([])
        elif piece.text:
            parts[-1].append(Span(piece.text, checked_weight(piece.weight)))
    return tuple(merged(part) for part in parts)


def _number(text: str) -> float:
    try:
        return checked_weight(float(text))
    except BadSyntax:
        raise
    except ValueError:
        raise BadSyntax("a weight that is no number found; one as in (text:1.3) wanted") from None
