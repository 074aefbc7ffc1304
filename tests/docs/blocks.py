"""The examples of the pages: commands and Python, as they stand in README.md and docs/.

A command whose comment says `# not run`, with the reason, is only parsed: it needs a cluster, a GPU or a registry, or
would do again what another test does. So is a block of Python whose first line is such a comment.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_RUN = "# not run"

_FENCE = re.compile(r"^```(sh|bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a shell, which may go over several lines."""

    text: str
    line: int

    @property
    def runs(self) -> bool:
        return NOT_RUN not in self.text


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether it is Python that runs."""
        return not self.text.startswith(NOT_RUN)

    @property
    def commands(self) -> list[Command]:
        """The commands of a block of shell."""
        return list(_commands(self.text, self.line))


def _commands(text: str, line: int) -> Iterator[Command]:
    begun, at = "", line
    for number, physical in enumerate(text.splitlines(), line + 1):
        at = at if begun else number
        begun += physical + "\n"
        if _goes_on(begun):
            continue
        if begun.strip() and not begun.lstrip().startswith("#"):
            yield Command(begun.rstrip("\n"), at)
        begun = ""
    assert not begun, f"line {at}: {begun!r} does not end"


def _goes_on(text: str) -> bool:
    if text.rstrip("\n").endswith("\\"):
        return True
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def blocks(page: Path) -> list[Block]:
    """All examples of a page, in order."""
    text = page.read_text()
    name = str(page.relative_to(ROOT))
    return [Block(name, text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in _FENCE.finditer(text)]


# README last: its block ends the stack.
PAGES = [*(page for page in sorted((ROOT / "docs").glob("*.md")) if blocks(page)), ROOT / "README.md"]
