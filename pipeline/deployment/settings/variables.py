"""How a field of the settings becomes an environment variable: TESSERA_<FIELD>, its value as text, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict

PREFIX = "TESSERA_"


# A path that may begin with ~.
HomePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class SettingsPart(BaseModel):
    """Settings that one kind of reader needs."""

    # Infinity is no number in JSON, in which settings reach plans and attempts.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def variable_name(name: str) -> str:
    """The variable of a field."""
    return PREFIX + name.upper()


def is_json(annotation: Any) -> bool:
    """Whether the variable of a field of this type holds JSON: where the field holds more than one value."""
    kind = get_origin(annotation) or annotation
    if kind is Annotated:
        return is_json(get_args(annotation)[0])
    if kind in (Union, UnionType):
        return any(map(is_json, get_args(annotation)))
    return isinstance(kind, type) and issubclass(kind, Mapping | list | tuple | set | frozenset | BaseModel)


def text_of(value: Any) -> str:
    """A field's value, dumped for JSON, as its variable holds it."""
    return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
