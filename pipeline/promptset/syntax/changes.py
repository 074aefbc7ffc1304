"""A1111's prompt editing, `[from:to:0.5]`, `[to:10]`, `[from::10]` and `[a|b]`: a text for each span of steps.

Read as the grammar in A1111's modules/prompt_parser.py (1.10) does: such brackets may stand in all others; a bracket
that belongs to nothing is a letter, and so are those around it; a `|` outside of `[ ]` leaves the whole prompt unread.
A number with a point is a share of the steps, one without is a step.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.promptset.syntax.parsed import MAX_CHANGING, MAX_CONDITIONS, MAX_DEPTH, BadSyntax

_TOKEN = re.compile(r"[\[\]():|]|(?:[^\\\[\]():|]|\\.)+|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_MATCHING = {")": "(", "]": "["}


_Nodes = list["str | _Edit | _Turns"]


@dataclass(frozen=True, slots=True)
class _Edit:
    """`before` up to and with step `when`, then `after`."""

    before: _Nodes
    after: _Nodes
    number: str

    def when(self, steps: int, *, later_pass: bool) -> int:
        value = float(self.number)
        if later_pass:  # steps and shares of the first pass are over by then; 1.5 is the half of this one
            return min(steps, int((value - 1) * steps)) if "." in self.number else 0
        return int(min(steps, value * steps if "." in self.number else value))


@dataclass(frozen=True, slots=True)
class _Turns:
    """One after the other, a step each."""

    options: tuple[_Nodes, ...]


class _Frame:
    """What has been read since a bracket was opened: nodes between separators."""

    __slots__ = ("nodes", "opener", "separators", "starts")

    def __init__(self, opener: str) -> None:
        self.opener, self.nodes = opener, list[str | _Edit | _Turns]()
        self.separators: list[str] = []
        self.starts = [0]  # of each field in nodes

    def separate(self, separator: str) -> None:
        self.separators.append(separator)
        self.starts.append(len(self.nodes))

    def fields(self) -> list[_Nodes]:
        ends = [*self.starts[1:], len(self.nodes)]
        return [self.nodes[start:end] for start, end in zip(self.starts, ends, strict=True)]

    def as_letters(self) -> Iterable[str | _Edit | _Turns]:
        """What was read, as it stands when its bracket is none."""
        yield self.opener
        for count, field in enumerate(self.fields()):
            if count:
                yield self.separators[count - 1]
            yield from field


def texts_by_step(text: str, steps: int, *, later_pass: bool = False) -> list[tuple[int, str]]:
    """The text up to and with each step at which it changes; the last step is `steps`. Raises BadSyntax.

    `later_pass`: for the second pass of a large picture, in which `[a:b:1.5]` changes at its half.
    """
    if "[" not in text or (":" not in text and "|" not in text):
        return [(steps, text)]
    nodes = _nodes(text)
    if nodes is None:
        return [(steps, text)]
    boundaries = {steps}
    changing = 0
    for node in _all(nodes):
        changing += 1
        if isinstance(node, _Turns):
            boundaries.update(range(1, steps + 1))
        elif (when := node.when(steps, later_pass=later_pass)) >= 1:
            boundaries.add(when)
    if changing > MAX_CHANGING:
        raise BadSyntax(f"{changing} brackets that change with the step found; at most {MAX_CHANGING} wanted")
    found: list[tuple[int, str]] = []
    for step in sorted(boundaries):
        now = "".join(_at(nodes, step, steps, later_pass=later_pass))
        if found and found[-1][1] == now:
            found[-1] = (step, now)
        else:
            found.append((step, now))
    if (different := len({now for _, now in found})) > MAX_CONDITIONS:
        raise BadSyntax(f"{different} different texts in {steps} steps found; at most {MAX_CONDITIONS} wanted")
    return found


def changes(text: str) -> bool:
    """Whether a prompt has brackets that change with the step. Raises BadSyntax."""
    nodes = _nodes(text) if "[" in text and (":" in text or "|" in text) else None
    return nodes is not None and any(True for _ in _all(nodes))


def _nodes(text: str) -> _Nodes | None:
    """The prompt's texts and brackets that change; None if there is nothing to be read in it."""
    frames = [_Frame("")]
    for match in _TOKEN.finditer(text):
        sign = match[0]
        top = frames[-1]
        if sign == "\\" or (sign == "|" and len(frames) == 1):  # a backslash at the end
            return None
        if sign in ("(", "["):
            frames.append(_Frame(sign))
        elif sign in (":", "|") and len(frames) > 1:
            top.separate(sign)
        elif sign in _MATCHING and len(frames) > 1:
            whole = _closed(top, sign)
            if whole is not None:
                frames.pop()
                frames[-1].nodes.extend(whole)
            elif not _give_up(frames):
                return None
            else:
                frames[-1].nodes.append(sign)
        else:
            top.nodes.append(sign)
        if len(frames) > MAX_DEPTH + 1:
            raise BadSyntax(f"brackets in brackets, more than {MAX_DEPTH} deep or not closed; fewer wanted")
    return _merged(frames[0].nodes) if _give_up(frames) else None


def _closed(frame: _Frame, sign: str) -> _Nodes | None:
    """What a bracket and its content are; None if they belong to nothing."""
    if frame.opener != _MATCHING[sign]:
        return None
    colons, bars = frame.separators.count(":"), frame.separators.count("|")
    if sign == "]" and bars and not colons:
        return [_Turns(tuple(_merged(field) for field in frame.fields()))]
    if sign == "]" and colons in (1, 2) and not bars:
        *sides, last = frame.fields()
        number = _NUMBER.fullmatch("".join(one if isinstance(one, str) else "?" for one in last))
        if number is None:
            return None
        before, after = ([], sides[0]) if colons == 1 else sides
        return [_Edit(_merged(before), _merged(after), number[1])]
    if bars or colons > (sign == ")"):
        return None
    return [*frame.as_letters(), sign]


def _give_up(frames: list[_Frame]) -> bool:
    """Open brackets are letters after all; False if that leaves a bar outside of all brackets."""
    while len(frames) > 1:
        frame = frames.pop(1)
        if "|" in frame.separators:
            return False
        frames[0].nodes.extend(frame.as_letters())
    return True


def _merged(nodes: Sequence[str | _Edit | _Turns]) -> _Nodes:
    out: _Nodes = []
    for is_text, group in itertools.groupby(nodes, lambda node: isinstance(node, str)):
        found = list(group)
        out.extend(["".join(found)] if is_text else found)  # type: ignore[arg-type]
    return out


def _all(nodes: _Nodes) -> Iterable[_Edit | _Turns]:
    for node in nodes:
        if isinstance(node, str):
            continue
        yield node
        inner = (node.before, node.after) if isinstance(node, _Edit) else node.options
        for one in inner:
            yield from _all(one)


def _at(nodes: _Nodes, step: int, steps: int, *, later_pass: bool) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, _Edit):
            side = node.before if step <= node.when(steps, later_pass=later_pass) else node.after
            yield from _at(side, step, steps, later_pass=later_pass)
        else:
            yield from _at(node.options[(step - 1) % len(node.options)], step, steps, later_pass=later_pass)
