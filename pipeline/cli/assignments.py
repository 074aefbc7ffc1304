"""OPTION=VALUE on the command line: fields of a picture for which a command has no option of their own."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.errors import RequestError
from pipeline.promptset.fields.row import Options

# Their values are text even where they look like a number.
_TEXTS = frozenset({"prompt_2", "negative_prompt", "negative_prompt_2", "model"})
# A blank after the comma goes on with a value: "scheduler=DPM++ 2M, solver_order=3" is one option.
_NEXT = re.compile(rf",(?=(?:{'|'.join(Options.model_fields)})=)")


def assigned(flag: str, given: list[str]) -> dict[str, Any]:
    """The options of `--set steps=20,size=832x1216`, with values as JSON holds them where they are JSON.

    Args:
        flag: as the user writes it, for messages.
        given: one text each time that the flag was given.

    Raises RequestError.
    """
    options: dict[str, Any] = {}
    for item in [part for text in given for part in _NEXT.split(text)]:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise RequestError(f"{flag} {item[:100]!r} found; OPTION=VALUE wanted, as in {flag} steps=20")
        if name in options:
            raise RequestError(f"{flag} {name[:100]} is there twice")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        options[name] = text if name in _TEXTS and not isinstance(value, str | None) else value
    return options
