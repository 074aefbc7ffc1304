"""The options of a picture, as every command that submits or validates rows has them: one for each field.

Typer reads a command's signature. So the command says `picture: Options` and nothing else, and `with_picture` writes an
option for each field of `Options` into the signature that Typer sees.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

import typer

from pipeline.request import Options
from pipeline.submit import checked_options

PANEL = "Pictures (of rows that do not say it themselves)"

# Fields whose option is more than a typed value: what stands for its value in the help.
_METAVARS = {
    "long_prompt": "error|chunk|truncate",
    "size": "WIDTHxHEIGHT",
    "aspect": "WIDTH:HEIGHT",
    "scheduler": "NAME[, KEY=VALUE...]",
    "highres": "auto|direct|refine[, KEY=VALUE...]",
    "original_size": "WIDTHxHEIGHT",
    "crop": "LEFT,TOP",
    "target_size": "WIDTHxHEIGHT",
    "negative_original_size": "WIDTHxHEIGHT",
    "negative_crop": "LEFT,TOP",
    "negative_target_size": "WIDTHxHEIGHT",
    "format": "png|jpeg|webp",
}


def with_picture(command: Callable[..., int]) -> Callable[..., int]:
    """The command with an option for each field of a picture; its argument `picture` gets what they say, checked."""

    @functools.wraps(command)
    def run(**given: Any) -> int:
        said = {name: given.pop(name) for name in Options.model_fields}
        lists = {"loras": said.pop("loras") or None}
        picture = checked_options({name: value for name, value in (said | lists).items() if value is not None})
        return command(**given, picture=picture)

    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "picture"]
    of_picture = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name))
        for name in Options.model_fields
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + of_picture
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for first
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _option(name: str) -> Any:
    field = Options.model_fields[name]
    text = (field.description or "").replace("`", "")
    if name == "loras":
        loras = typer.Option("--lora", help=text, metavar="NAME[:SCALE]", rich_help_panel=PANEL)
        return Annotated[list[str] | None, loras]
    kind: Any = str if name in _METAVARS else _kind(field.annotation)
    flag = f"--{name.replace('_', '-')}"
    default = field.get_default()
    option = typer.Option(
        f"{flag}/--no{flag[1:]}" if kind is bool else flag,
        help=text,
        metavar=_METAVARS.get(name),
        rich_help_panel=PANEL,
        show_default=str(default) if isinstance(default, str | int | float) and default is not False else False,
    )
    return Annotated[kind | None, option]


def _kind(annotation: Any) -> type:
    """int, of `int`, `int | None` and `Annotated[int, ...] | None`."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if isinstance(annotation, type):
        return annotation
    return _kind(get_args(annotation)[0])
