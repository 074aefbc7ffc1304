"""Labels of a batch: names and values by which its user finds it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from pipeline.errors import RequestError
from pipeline.names import checked_id

MOST = 16
MOST_CHARACTERS = 200


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels themselves. Raises RequestError naming what cannot be one."""
    if len(labels) > MOST:
        raise RequestError(f"{len(labels)} labels found; at most {MOST} wanted")
    for name, value in labels.items():
        checked_id(name, "label")
        if not isinstance(value, str) or len(value) > MOST_CHARACTERS or not value.isprintable():
            raise RequestError(f"label {name!r}: a printable text of at most {MOST_CHARACTERS} characters wanted")
    return dict(labels)


def _checked(labels: dict[str, str]) -> dict[str, str]:
    try:
        return checked_labels(labels)
    except RequestError as error:
        raise ValueError(str(error)) from error


Labels = Annotated[dict[str, str], AfterValidator(_checked)]


def parsed_labels(texts: list[str], flag: str = "--label") -> dict[str, str]:
    """The labels of NAME=VALUE texts. Raises RequestError."""
    labels: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"{flag} {text[:100]!r} found; NAME=VALUE wanted, as in {flag} project=atlas")
        labels[name] = value
    return checked_labels(labels)
