"""Examples that are not run are parsed: their options exist, their Python compiles."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pipeline.cli.main import app
from tests.docs.blocks import NOT_RUN, PAGES, ROOT, Block, blocks
from tests.helm.chart import helm, kubectl

BLOCKS = [block for page in PAGES for block in blocks(page)]


@functools.cache
def _output(program: Path, *words: str) -> str:
    return subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout


def _check_tessera(words: list[str]) -> None:
    """Raises what the command line itself would: no such command, no such option, an argument too many."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.get_command(None, words[0]), words[1:]
    context = command.make_context(command.name, [], resilient_parsing=True)
    context.resilient_parsing = False
    _, left, _ = command.make_parser(context).parse_args(args=list(words))
    assert not left


def _check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in words:
        assert f"\n{target}: " in makefile


def _check_helm(words: list[str]) -> None:
    _check_flags(helm(), words, "")


def _check_kubectl(words: list[str]) -> None:
    _check_flags(kubectl(), words, _output(kubectl(), "options"))


def _check_flags(program: Path, words: list[str], of_all: str) -> None:
    """Whether the help of the subcommand has all flags; `of_all` says which ones every subcommand has."""
    rest = words
    while rest[0].startswith("--"):  # such as --namespace render
        rest = rest[2:]
    plain = list(itertools.takewhile(lambda word: not word.startswith("-"), rest))
    text = _output(program, *plain, "--help")
    assert f"{program.name} {plain[0]}" in text, f"no command {program.name} {plain[0]}"
    for flag in (word.partition("=")[0] for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text + of_all), (
            f"{program.name} {' '.join(plain)} has no {flag}"
        )


CHECKS = {"tessera": _check_tessera, "make": _check_make, "helm": _check_helm, "kubectl": _check_kubectl}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_an_example_can_be_parsed(block: Block) -> None:
    if block.language == "python":
        compile(block.text, block.name, "exec")
        return
    assert subprocess.run(["/bin/bash", "-n"], input=block.text, text=True, check=False).returncode == 0
    for command in block.commands:
        words = [word for word in shlex.split(command.text.replace("\\\n", " "), comments=True) if word != "&"]
        check = CHECKS.get(words[0])
        if check is not None and not {"|", "&&", ">"} & set(words):
            check(words[1:])


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_what_is_not_run_says_why(block: Block) -> None:
    for line in block.text.splitlines():
        if NOT_RUN in line:
            assert line.partition(NOT_RUN)[2].startswith(": "), f"{block.name}: {line}"


def test_most_examples_run() -> None:
    run = [block.name for block in BLOCKS if any(command.runs for command in block.commands)] if BLOCKS else []
    assert len(run) > len(BLOCKS) / 2
    assert Path(ROOT / "README.md") in PAGES
