"""The options for pictures that every command which reads a prompt set has: one for each field of a row.

Typer reads a command's signature. The command itself has the parameters `picture` and `overrides`; `with_picture` puts
`--override` and an option for each field of `Options` in their place in the signature that Typer sees.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import complete
from pipeline.cli.assignments import assigned
from pipeline.cli.options import Override
from pipeline.errors import RequestError
from pipeline.promptset.checked import checked_options
from pipeline.promptset.decisions.levels import beside
from pipeline.promptset.fields.kinds import plain_type
from pipeline.promptset.fields.row import Options

PANEL = "Pictures (a row's own values come first)"

Defaults = Annotated[
    Path | None,
    typer.Option(help="JSON file with values for all rows; options given here come first.", rich_help_panel=PANEL),
]
# Fields whose values have a form of their own: what stands for it in the help.
_METAVARS = {
    "syntax": "a1111|comfy|compel|none",
    "long_prompt": "error|chunk|truncate",
    "size": "WIDTHxHEIGHT|SIDE",
    "aspect": "WIDTH:HEIGHT",
    "guidance_interval": "FROM,TO",
    "scheduler": "NAME[, KEY=VALUE...]",
    "highres": "auto|direct|refine|cascade[, KEY=VALUE...]",
    "image": "PATH|s3://...|batch://ID/ROW",
    "fit": "fill|fit|stretch",
    "control": "NAME, image=PATH[, KEY=VALUE...]",
    "reference": "NAME, image=PATH[, KEY=VALUE...]",
    "norm_mode": "corrected|stale|synchronous|local",
    "mask": "alpha|PATH|s3://...",
    "canvas": "WIDTHxHEIGHT[+LEFT+TOP]",
    "masked_size": "WIDTHxHEIGHT",
    "original_size": "WIDTHxHEIGHT",
    "crop": "LEFT,TOP",
    "target_size": "WIDTHxHEIGHT",
    "negative_original_size": "WIDTHxHEIGHT",
    "negative_crop": "LEFT,TOP",
    "negative_target_size": "WIDTHxHEIGHT",
    "format": "png|jpeg|webp",
}


_COMPLETED = {"scheduler": complete.schedulers, "model": complete.models}


def with_picture(command: Callable[..., int]) -> Callable[..., int]:
    """The command with an option for each field of a picture, and `--override`.

    Its arguments `picture` and `overrides` get their values, checked.
    """

    @functools.wraps(command)
    def run(**given: Any) -> int:
        of_file = _read(given.pop("defaults"))
        options = {name: given.pop(name) for name in Options.model_fields}
        options["loras"] = options["loras"] or None
        chosen = {name: value for name, value in options.items() if value is not None}
        overrides = assigned("--override", given.pop("override") or [])
        picture = checked_options({**beside(chosen, of_file), **chosen})
        return command(**given, picture=picture, overrides=checked_options(overrides))

    made = {"picture", "overrides"}
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in made]
    of_picture = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name))
        for name in Options.model_fields
    ]
    defaults = inspect.Parameter("defaults", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Defaults)
    override = inspect.Parameter("override", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Override)
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + [defaults, override, *of_picture]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for first
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _read(path: Path | None) -> Mapping[str, Any]:
    """The fields of a file of defaults, under our own names. Raises RequestError."""
    if path is None:
        return {}
    try:
        given = json.loads(path.read_bytes())
    except OSError as error:
        raise RequestError(f"--defaults {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"--defaults {path} is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise RequestError(f"--defaults {path}: a JSON object of fields wanted")
    try:
        return checked_options(given).explicit_values()
    except RequestError as error:
        raise RequestError(f"--defaults {path}: {error}") from error


def _completion(name: str) -> Callable[[str], list[str]] | None:
    if name in _COMPLETED:
        return _COMPLETED[name]
    names = _METAVARS.get(name, "").partition("[")[0].split("|")
    return complete.one_of(names) if len(names) > 1 else None


def _option(name: str) -> Any:
    field = Options.model_fields[name]
    text = (field.description or "").replace("`", "")
    if name == "loras":
        loras = typer.Option(
            "--lora", help=text, metavar="NAME[:SCALE]", rich_help_panel=PANEL, autocompletion=complete.loras
        )
        return Annotated[list[str] | None, loras]
    kind: Any = plain_type(field) or str
    flag = f"--{name.replace('_', '-')}"
    default = field.get_default()
    option = typer.Option(
        f"{flag}/--no{flag[1:]}" if kind is bool else flag,
        help=text,
        metavar=_METAVARS.get(name),
        autocompletion=_completion(name),
        rich_help_panel=PANEL,
        show_default=str(default) if isinstance(default, str | int | float) and default is not False else False,
    )
    return Annotated[kind | None, option]
