"""Entries of an allow-list for these tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One with other names."""

    names: tuple[str, ...] = ()
