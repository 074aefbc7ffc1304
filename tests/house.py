"""What neither ruff nor mypy nor import-linter can say of the house: `python -m tests.house`, part of `make check`.

One finding a line, as ruff prints them; the exit status is 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Folders whose public classes share one vocabulary; the engine stands alone and has its own.
CONTROL_SIDE = ("pipeline", "tasks", "embedded", "k8s")
PRODUCT = (*CONTROL_SIDE, "distri")

LONGEST_FILE = 300
# Where stored records are read: what is unreadable, foreign or too new becomes one error there.
READERS = frozenset({"pipeline/schema.py"})
_PRIVATE_WORDS = re.compile(r"_?(told|said|way|word|deal)(_.*)?")


def main() -> int:
    """Print every finding; 1 if there is one."""
    trees = {path: ast.parse(path.read_text()) for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))}
    findings = [
        f"{path.relative_to(ROOT)}:{line}: {message}"
        for rule in (_long_files, _private_words, _readers, _public_classes)
        for path, line, message in rule(trees)
    ]
    print("\n".join(findings) or "the house is in order")
    return 1 if findings else 0


Finding = tuple[Path, int, str]


def _long_files(trees: dict[Path, ast.Module]) -> Iterator[Finding]:
    """Past 300 lines a file says in its docstring why it is one idea all the same."""
    for path, tree in trees.items():
        lines = len(path.read_text().splitlines())
        if lines > LONGEST_FILE and "300 lines" not in (ast.get_docstring(tree) or ""):
            yield path, 1, f"{lines} lines; at most {LONGEST_FILE}, or a sentence with '300 lines' in its docstring"


def _private_words(trees: dict[Path, ast.Module]) -> Iterator[Finding]:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _PRIVATE_WORDS.fullmatch(node.name):
                yield path, node.lineno, f"{node.name}: a private word; docs/words.md has the terms"


_READS = frozenset({"model_validate_json", "validate_json", "parse_raw"})


def _readers(trees: dict[Path, ast.Module]) -> Iterator[Finding]:
    """No JSON becomes a model elsewhere: by a model, by a TypeAdapter, or by `model_validate(json.loads(...))`."""
    for path, tree in trees.items():
        for node in ast.walk(tree) if str(path.relative_to(ROOT)) not in READERS else ():
            if isinstance(node, ast.Attribute) and node.attr in _READS:
                yield path, node.lineno, f"{node.attr} beside pipeline/schema.py, the one reader of records"
            elif isinstance(node, ast.Call) and _reads_loaded_json(node):
                yield path, node.lineno, "json.loads beside pipeline/schema.py, the one reader of records"


def _reads_loaded_json(call: ast.Call) -> bool:
    reads = ast.unparse(call.func).endswith((".model_validate", ".validate_python"))
    return reads and any("json.load" in ast.unparse(argument) for argument in call.args)


def _public_classes(trees: dict[Path, ast.Module]) -> Iterator[Finding]:
    """Two public classes of one name are one thing, or one of them is renamed."""
    found: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for path, tree in trees.items():
        if path.relative_to(ROOT).parts[0] in CONTROL_SIDE:
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append((path, node.lineno))
    for name, places in found.items():
        for path, line in places[1:]:
            yield path, line, f"class {name} is also in {places[0][0].relative_to(ROOT)}"


if __name__ == "__main__":
    sys.exit(main())
