"""docs/client.md names every command and every public method, as the program has them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

import pipeline
from pipeline.cli.main import app
from tests.docs.made import check_part, first_sentence

CLASSES = ["Client", "Batch", "RenderedImage", "Schedules"]


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that is shown, with the names of its groups before its own."""
    for name in group.commands:
        command = group.get_command(None, name)  # the program imports each when it is asked for
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        elif not command.hidden:
            yield before + name, command


def _usage(name: str, command: Any) -> str:
    words = [name]
    for argument in (one for one in command.params if one.param_type_name == "argument"):
        metavar = (argument.metavar or argument.name).upper().replace("BATCH_IDS", "BATCH").replace("BATCH_ID", "BATCH")
        metavar = {"JOB": "BATCH/JOB"}.get(metavar, metavar) + ("..." if argument.nargs == -1 else "")
        words.append(metavar if argument.required else f"[{metavar}]")
    return " ".join(words)


def test_the_page_names_every_command() -> None:
    found = sorted(commands(typer.main.get_command(app)))
    rows = [f"| `{_usage(name, command)}` | {first_sentence(command.callback)} |" for name, command in found]
    assert [row for row in rows if row.endswith("|  |")] == [], "no help"
    check_part("client.md", "commands", ["| command | does |", "|---|---|", *rows])


@pytest.mark.parametrize("name", CLASSES)
def test_the_page_names_every_public_method(name: str) -> None:
    rows = [f"| `{call}` | {does} |" for call, does in _methods(getattr(pipeline, name))]
    check_part("client.md", name, [f"| `{name}` | does |", "|---|---|", *rows])


def _methods(kind: type) -> Iterator[tuple[str, str]]:
    for name, found in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(found, property):
            yield name, first_sentence(found)
        elif inspect.isfunction(found):
            yield f"{name}({_parameters(found)})", first_sentence(found)


def _parameters(function: object) -> str:
    shown: list[str] = []
    keywords = False
    for parameter in list(inspect.signature(function).parameters.values())[1:]:  # type: ignore[arg-type]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            shown.append(f"**{parameter.name}")
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            shown.append(f"*{parameter.name}")
            keywords = True
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keywords:
            shown.append("*")
            keywords = True
        default = parameter.default
        plain = default is None or isinstance(default, bool | int | float | str)
        text = f"={default!r}" if plain else "=..."
        shown.append(parameter.name + (text if default is not inspect.Parameter.empty else ""))
    return ", ".join(shown)


def test_every_public_method_says_what_it_does() -> None:
    silent = [f"{name}.{call}" for name in CLASSES for call, does in _methods(getattr(pipeline, name)) if not does]
    assert silent == []
