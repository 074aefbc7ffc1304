"""What the chart uses of the Gateway API (gateway.networking.k8s.io/v1), whose kinds no schema of Kubernetes knows:
https://gateway-api.sigs.k8s.io/reference/spec/."""

from __future__ import annotations

from typing import Any

API = "gateway.networking.k8s.io/v1"


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


_TEXT = {"type": "string", "minLength": 1}
_BACKEND = _closed(["name", "port"], name=_TEXT, port={"type": "integer"})

_RULE = _closed(["backendRefs"], backendRefs={"type": "array", "items": _BACKEND})

SCHEMAS = {
    "HTTPRoute": _closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": API},
        kind={"const": "HTTPRoute"},
        metadata=_closed(["name", "labels"], name=_TEXT, labels={"type": "object"}),
        spec=_closed(
            ["parentRefs", "rules"],
            parentRefs={"type": "array", "minItems": 1, "items": _closed(["name"], name=_TEXT, namespace=_TEXT)},
            hostnames={"type": "array", "items": _TEXT},
            rules={"type": "array", "items": _RULE},
        ),
    )
}
