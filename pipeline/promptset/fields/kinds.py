"""What a field of a row holds, from its annotation: cells of a table and options of the command line are read by it."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo


def plain_type(field: FieldInfo) -> type | None:
    """int of `int`, `int | None` and `Annotated[int, ...] | None`; None if the field reads texts in a form of its own.

    A field has a form of its own, such as 832x1216 for a size, where a BeforeValidator comes before its type.
    """
    if any(isinstance(mark, BeforeValidator) for mark in field.metadata):
        return None
    return _plain(field.annotation)


def _plain(annotation: Any) -> type | None:
    if isinstance(annotation, type):
        return annotation
    first, *marks = get_args(annotation)
    if get_origin(annotation) is Annotated and any(isinstance(mark, BeforeValidator) for mark in marks):
        return None
    return _plain(first)
