"""What neither ruff nor mypy nor import-linter can say of the house: `python -m tests.house`, part of `make check`.

One finding a line, as ruff prints them; the exit status is 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Folders whose public classes share one vocabulary; the engine stands alone and has its own.
CONTROL_SIDE = ("pipeline", "tasks", "embedded", "k8s")
PRODUCT = (*CONTROL_SIDE, "distri")
TESTS = "tests"

LONGEST_FILE = 300
# Where stored records are read: what is unreadable, foreign or too new becomes one error there.
READERS = frozenset({"pipeline/schema.py"})
# Where objects of the bucket are fetched and read in one step, so that one error says both.
FETCHERS = frozenset({"pipeline/bucket/fetch.py"})
_PRIVATE_WORDS = re.compile(r"_?(told|said|way|word|deal)(_.*)?")


# What draws from a sequence that nobody began, and what begins one: without an argument at chance.
_DRAWS = re.compile(r"(.*\.)?effect_noise|os\.urandom|random\.[a-z]\w*|(np|numpy)\.random\.(?!default_rng)[a-z]\w*")
_BEGINS = re.compile(r"(.*\.)?(default_rng|Random)")

_READS = frozenset({"model_validate_json", "validate_json", "parse_raw"})
_PARSES = frozenset({"read_record", "read_manifest", "read_marker", "parsed_shard", "parsed_outcomes"})
_GETS = re.compile(r"(.*\.)?_?artifacts\.get")

# Path from the root, line, message.
Finding = tuple[str, int, str]
Trees = Mapping[str, ast.Module]


def main() -> int:
    """Print every finding; 1 if there is one."""
    files = sorted(path for folder in (*PRODUCT, TESTS) for path in (ROOT / folder).rglob("*.py"))
    found = findings({path.relative_to(ROOT).as_posix(): path.read_text() for path in files})
    print("\n".join(f"{path}:{line}: {message}" for path, line, message in found) or "the house is in order")
    return 1 if found else 0


def findings(sources: Mapping[str, str]) -> list[Finding]:
    """What is wrong with these files, by their paths from the root."""
    product = {path: source for path, source in sources.items() if not path.startswith(f"{TESTS}/")}
    trees = {path: ast.parse(source) for path, source in product.items()}
    tests = {path: ast.parse(source) for path, source in sources.items() if path not in product}
    rules = (_private_words(trees), _readers(trees), _fetchers(trees), _public_classes(trees), _chance(tests))
    return [*_long_files(product), *(finding for rule in rules for finding in rule)]


def _long_files(sources: Mapping[str, str]) -> Iterator[Finding]:
    """Past 300 lines a file says in its docstring why it is one idea all the same."""
    for path, source in sources.items():
        lines = len(source.splitlines())
        if lines > LONGEST_FILE and "300 lines" not in (ast.get_docstring(ast.parse(source)) or ""):
            yield path, 1, f"{lines} lines; at most {LONGEST_FILE}, or a sentence with '300 lines' in its docstring"


def _private_words(trees: Trees) -> Iterator[Finding]:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _PRIVATE_WORDS.fullmatch(node.name):
                yield path, node.lineno, f"{node.name}: a private word; docs/words.md has the terms"


def _readers(trees: Trees) -> Iterator[Finding]:
    """No JSON becomes a model elsewhere: by a model, by a TypeAdapter, or by `model_validate(json.loads(...))`."""
    for path, tree in trees.items():
        for node in ast.walk(tree) if path not in READERS else ():
            if isinstance(node, ast.Attribute) and node.attr in _READS:
                yield path, node.lineno, f"{node.attr} beside pipeline/schema.py, the one reader of records"
            elif isinstance(node, ast.Call) and _reads_loaded_json(node):
                yield path, node.lineno, "json.loads beside pipeline/schema.py, the one reader of records"


def _fetchers(trees: Trees) -> Iterator[Finding]:
    """No function gets an object and reads it: what is too large would be another error than what is damaged."""
    for path, tree in trees.items():
        if path.partition("/")[0] not in CONTROL_SIDE or path in FETCHERS:
            continue
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            calls = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
            if any(map(_GETS.fullmatch, calls)) and any(call in _PARSES for call in calls):
                yield path, function.lineno, f"{function.name} gets and reads beside pipeline/bucket/fetch.py"


def _reads_loaded_json(call: ast.Call) -> bool:
    reads = ast.unparse(call.func).endswith((".model_validate", ".validate_python"))
    return reads and any("json.load" in ast.unparse(argument) for argument in call.args)


def _public_classes(trees: Trees) -> Iterator[Finding]:
    """Two public classes of one name are one thing, or one of them is renamed."""
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path, tree in trees.items():
        if path.partition("/")[0] in CONTROL_SIDE:
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append((path, node.lineno))
    for name, places in found.items():
        for path, line in places[1:]:
            yield path, line, f"class {name} is also in {places[0][0]}"


def _chance(trees: Trees) -> Iterator[Finding]:
    """A test draws the same in every run: what fails by chance once in a hundred runs is never found."""
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if _DRAWS.fullmatch(name) or (_BEGINS.fullmatch(name) and not node.args and not node.keywords):
                    yield (
                        path,
                        node.lineno,
                        f"{name}: a test draws from a generator with a seed; factories.noise paints",
                    )


if __name__ == "__main__":
    sys.exit(main())
