"""Options of a call, checked: what holds for all rows, or for the one picture that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import RequestError
from pipeline.promptset.fields.row import Options
from pipeline.promptset.validate import fields_errors


def checked_options(values: Mapping[str, Any]) -> Options:
    """Options that hold for all rows. Raises RequestError naming each that cannot be used."""
    if problems := fields_errors(0, values, Options):
        raise RequestError("; ".join(f"{problem.field}: {problem.message}" for problem in problems))
    return Options.model_validate(values)


def one_picture(values: Mapping[str, Any]) -> Options:
    """The same where one picture is asked for. Raises RequestError, also if it is several."""
    options = checked_options(values)
    if options.num_images != 1:
        raise RequestError(f"num_images {options.num_images} found; render makes one picture, submit makes several")
    return options
