"""What a list says of records that this version cannot read."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from pipeline.operations.status import Unreadable


def print_unreadable(listed: Iterable[object]) -> None:
    """Say on stderr what is wrong with each entry of a list that cannot be read."""
    for one in listed:
        if isinstance(one, Unreadable):
            typer.echo(f"{one.id}: {one.reason}", err=True)
