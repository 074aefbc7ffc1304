"""Parts of pages that are made from the code: the lines between `<!-- made: NAME -->` and `<!-- end -->`.

`TESSERA_PAGES=write` has the tests write them instead of comparing.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def check_part(page: str, name: str, lines: Sequence[str]) -> None:
    """Compare a part of a page of docs/ with what it should be, or write it."""
    path = DOCS / page
    begin, end = f"<!-- made: {name} -->\n", "<!-- end -->\n"
    before, found, rest = path.read_text().partition(begin)
    old, ended, after = rest.partition(end)
    assert found, f"{page} has no part {name}"
    assert ended, f"{page} has no end of part {name}"
    new = "".join(f"{line}\n" for line in lines)
    if os.environ.get("TESSERA_PAGES") == "write":
        path.write_text(before + begin + new + end + after)
    else:
        assert old == new, f"TESSERA_PAGES=write pytest {__file__.rpartition('/')[0]} makes {page} anew"


def first_sentence(of: object) -> str:
    """The first sentence of a docstring, for a cell of a table."""
    line = " ".join((inspect.getdoc(of) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z0-9)`])\. ", line)[0].rstrip(".")
    return sentence.replace("|", r"\|")
