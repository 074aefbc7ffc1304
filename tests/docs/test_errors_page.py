"""docs/errors.md names every error, as the program has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pipeline
from pipeline import errors
from pipeline.cli.exits import exit_code
from pipeline.errors import TesseraError
from tests.docs.made import check_part, first_sentence

CALLERS = ["Client", "Batch", "RenderedImage", "Schedules"]


def _tree(kind: type[TesseraError], depth: int = 0) -> Iterator[tuple[type[TesseraError], int]]:
    """Every error of `pipeline.errors`, each followed by its kinds."""
    yield kind, depth
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from _tree(each, depth + 1)


def _carries(kind: type[TesseraError]) -> str:
    if "__init__" not in vars(kind):
        return ""
    assigned = re.findall(r"^ *(self\.[^=\n]*) = ", inspect.getsource(kind.__init__), re.MULTILINE)
    names = re.findall(r"self\.([a-z]\w*)", " ".join(assigned))
    return ", ".join(f"`{name}`" for name in names)


def _raised_by(kind: type[TesseraError]) -> str:
    """The public methods whose docstring names it."""
    found = [
        f"`{name}.{method}`"
        for name in CALLERS
        for method, member in vars(getattr(pipeline, name)).items()
        if not method.startswith("_") and re.search(rf"\b{kind.__name__}\b", inspect.getdoc(member) or "")
    ]
    return ", ".join(found)


def _exit_code(kind: type[TesseraError]) -> int:
    return exit_code(kind.__new__(kind))


def test_the_page_names_every_error() -> None:
    head = ["| error | means | carries | raised by | exit code |", "|---|---|---|---|---|"]
    public, others = list(head), ["| error | is a | means |", "|---|---|---|"]
    for kind, _depth in _tree(TesseraError):
        name, means = kind.__name__, first_sentence(kind)
        base = kind.__mro__[1].__name__
        if name in pipeline.__all__:
            text = means if kind.__mro__[1] in (TesseraError, Exception) else f"{means}; a `{base}`"
            public.append(f"| `{name}` | {text} | {_carries(kind)} | {_raised_by(kind)} | {_exit_code(kind)} |")
        else:
            others.append(f"| `{name}` | `{base}` | {means} |")
    check_part("errors.md", "public", public)
    check_part("errors.md", "others", others)


def test_every_public_error_is_in_the_tree() -> None:
    tree = {kind.__name__ for kind, _depth in _tree(TesseraError)}
    kinds = {
        name
        for name in pipeline.__all__
        if inspect.isclass(value := getattr(pipeline, name)) and issubclass(value, Exception)
    }
    assert kinds <= tree
