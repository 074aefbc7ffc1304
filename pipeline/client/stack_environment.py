"""Which variables of the environment count on this machine: for its stack, for one picture without it, for clients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.deployment.settings import PREFIX, Settings, load_settings, variable_name
from pipeline.errors import SettingsError

# In a data folder: variables and values, a line each.
SETTINGS_FILE = "settings.env"

# What this machine's stack decides by itself: its own Redis, bucket and node.
_OWN = frozenset(
    variable_name(name)
    for name in ("redis_url", "s3_endpoint", "s3_region", "s3_bucket", "launcher", "image", "data_dir", "log_format")
)
# ... of which a client has its own use.
_OF_CLIENTS = frozenset(map(variable_name, ("data_dir", "log_format")))


def without_deployment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what points at a deployment: TESSERA_* and AWS_* (a session token, say, would spoil ours)."""
    return {name: value for name, value in environ.items() if not name.startswith(("TESSERA_", "AWS_"))}


def heeded(environ: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """The settings that a local stack takes over: those of its folder's file, and over them those of `environ`.

    All but those that it decides by itself. Raises SettingsError if the file cannot be read as one.
    """
    own = {name: value for name, value in environ.items() if name.startswith(PREFIX) and name not in _OWN and value}
    return settings_of_file(data_dir) | own


def settings_of_file(data_dir: Path) -> dict[str, str]:
    """What the settings file of a data folder says; nothing if there is none. Raises SettingsError."""
    path = data_dir / SETTINGS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name or name.startswith("#"):
            continue
        if not equals or not name.startswith(PREFIX):
            raise SettingsError(f"{path}, line {number}: {name[:80]!a} found; {PREFIX}NAME=VALUE or # wanted")
        if name in _OWN:
            raise SettingsError(f"{path}, line {number}: {name}: the local stack decides that by itself")
        found[name] = value
    return found


def unheeded(environ: Mapping[str, str]) -> list[str]:
    """The settings of `environ` that a local stack decides by itself, so that they change nothing."""
    return sorted(name for name in _OWN - _OF_CLIENTS if environ.get(name))


def without_effect(environ: Mapping[str, str], running: Mapping[str, str]) -> list[str]:
    """The settings of `environ` that a stack which runs has otherwise: it took its own when it started.

    Args:
        running: its environment.
    """
    known = {variable_name(name) for name in Settings.model_fields} - _OF_CLIENTS
    return sorted(name for name in known & set(environ) if environ[name] and not _is_so(name, environ[name], running))


def _is_so(name: str, value: str, running: Mapping[str, str]) -> bool:
    if running.get(name) == value:
        return True
    try:
        return load_settings({**running, name: value}) == load_settings(running)
    except SettingsError:  # it does not go with the others, or is no value of it
        return False
