"""The version of this installation."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "tessera-render"


def installed_version(distribution: str = DISTRIBUTION) -> str:
    """The version of an installed distribution, `unknown` if it runs from a tree that was never installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
