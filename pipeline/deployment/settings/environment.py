"""Settings from the environment: all problems at once, each by the name of its variable."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.deployment.settings.composed import Settings
from pipeline.deployment.settings.variables import PREFIX, SettingsPart, is_json, variable_name
from pipeline.errors import SettingsError
from pipeline.names import CLIENT_VARIABLES, POD_VARIABLES

P = TypeVar("P", bound=SettingsPart)


def load_settings(environ: Mapping[str, str] | None = None, *, newer: bool = False, **overrides: Any) -> Settings:
    """Read the settings from the environment; `overrides` win.

    With `newer`, names that are no settings are passed over: a pod keeps its image while what launches it is upgraded.
    Raises SettingsError with every problem at once: what is missing, misspelt or out of range, by variable name.
    """
    return load_part(Settings, environ, newer=newer, **overrides)


def load_part(part: type[P], environ: Mapping[str, str] | None = None, *, newer: bool = False, **overrides: Any) -> P:
    """Read some of the settings likewise; the values of others are not looked at, a misspelt name is an error."""
    environ = os.environ if environ is None else environ
    fields = part.model_fields
    known = {variable_name(name): name for name in Settings.model_fields | fields}
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    problems = []
    for name in () if newer else sorted(given.keys() - known.keys() - POD_VARIABLES - CLIENT_VARIABLES):
        near = difflib.get_close_matches(name, known, n=1)
        problems.append(f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    values: dict[str, Any] = {name: given[variable_name(name)] for name in fields if given.get(variable_name(name))}
    for name in [name for name in values if is_json(fields[name].annotation)]:
        try:
            values[name] = json.loads(values[name])
        except json.JSONDecodeError as error:
            problems.append(f"{variable_name(name)}: not JSON ({error.msg} at position {error.pos})")
            del values[name]
    try:
        settings = part.model_validate(values | overrides)
    except ValidationError as error:
        problems += [_describe(item) for item in error.errors(include_url=False, include_input=False)]
    if problems:
        raise SettingsError("settings cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
    return settings


def _describe(item: Any) -> str:
    where = variable_name(".".join(str(part) for part in item["loc"])) if item["loc"] else "settings"
    return f"{where}: {'must be set' if item['type'] == 'missing' else item['msg']}"
