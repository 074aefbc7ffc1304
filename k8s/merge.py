"""Merge one Kubernetes object into another: mappings by key, lists of named items by name; null removes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Lists that are merged item by item, and the field that identifies an item; all other lists are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
}


def merged(base: Any, patch: Any) -> Any:
    """`base` with `patch` merged into it; both stay as they are. `patch` must have no `problems`."""
    return _merged(base, patch, key=None)


def problems(patch: Any, where: str = "") -> Iterator[str]:
    """What cannot be merged, by path: items of merged lists that have no name."""
    if not isinstance(patch, Mapping):
        return
    for key, value in patch.items():
        path = f"{where}.{key}" if where else key
        identity = MERGE_KEYS.get(key)
        if identity is None or value is None:
            yield from problems(value, path)
        elif not isinstance(value, list):
            yield f"{path}: a list wanted"
        else:
            for number, item in enumerate(value):
                if not isinstance(item, Mapping) or not isinstance(item.get(identity), str):
                    yield f"{path}[{number}]: an object with {identity!r} wanted"
                else:
                    yield from problems(item, f"{path}[{number}]")


def _merged(base: Any, patch: Any, *, key: str | None) -> Any:
    if isinstance(base, Mapping) and isinstance(patch, Mapping):
        result = {name: value for name, value in base.items() if patch.get(name, value) is not None}
        for name, value in patch.items():
            if value is not None:
                result[name] = _merged(result[name], value, key=name) if name in result else value
        return result
    if key in MERGE_KEYS and isinstance(base, list) and isinstance(patch, list):
        identity = MERGE_KEYS[key]
        by_name = {item[identity]: item for item in base}
        for item in patch:
            by_name[item[identity]] = _merged(by_name.get(item[identity], {}), item, key=None)
        return list(by_name.values())
    return patch
