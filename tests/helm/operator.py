"""What the chart uses of the Prometheus operator's API (monitoring.coreos.com/v1), whose kinds no schema of Kubernetes
knows: https://prometheus-operator.dev/docs/api-reference/api/."""

from __future__ import annotations

from typing import Any

API = "monitoring.coreos.com/v1"

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION = {"type": "string", "pattern": r"^(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?$", "minLength": 2}


def _closed(*, optional: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _kind(name: str, spec: Any) -> dict[str, Any]:
    metadata = _closed(name=_TEXT, labels=_TEXTS)
    return _closed(apiVersion={"const": API}, kind={"const": name}, metadata=metadata, spec=spec)


_RULE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["alert", "expr", "labels", "annotations"],
    "properties": {"alert": _TEXT, "expr": _TEXT, "for": _DURATION, "labels": _TEXTS, "annotations": _TEXTS},
}

SCHEMAS = {
    "ServiceMonitor": _kind(
        "ServiceMonitor",
        _closed(selector=_closed(matchLabels=_TEXTS), endpoints=_list(_closed(port=_TEXT, interval=_DURATION))),
    ),
    "PrometheusRule": _kind("PrometheusRule", _closed(groups=_list(_closed(name=_TEXT, rules=_list(_RULE))))),
}
