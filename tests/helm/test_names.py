"""Names that YAML would read as numbers, as truth or as nothing, and hosts that begin with a star, stay texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helm.chart import of_kind, render
from tests.helm.test_switches import DEV, METRICS, examine, schemas_are_read_once

__all__ = ["schemas_are_read_once"]

STRANGE = ["123", "1e5", "0x1f", "007", "null", "true", "on"]


def _leaves(found: Any) -> Iterator[Any]:
    if isinstance(found, dict | list):
        for one in found.values() if isinstance(found, dict) else found:
            yield from _leaves(one)
    else:
        yield found


def _named(name: str) -> dict[str, Any]:
    """Values that say this name wherever somebody chooses one."""
    return {
        "global": {"imagePullSecrets": [name]},
        "nameOverride": name,
        "deployment": name,
        "redis": {"existingSecret": name, "tls": {"caSecret": name, "clientSecret": name}},
        "s3": {"existingSecret": name},
        "pod": {"models_claim": None},
        "weights": {"claim": {"create": True, "storageClassName": name}, "warmUp": {"source": "models/"}},
        "serviceAccount": {"name": name},  # that of pods is another
        "api": {
            "enabled": True,
            "redisExistingSecret": name,
            "ingress": {"host": name, "className": name, "tlsSecret": name},
            "gateway": {"name": name, "namespace": name, "hostname": name},
        },
        **METRICS,
    }


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_is_a_text_whatever_it_looks_like(name: str) -> None:
    objects = render(_named(name), release=name, namespace=name).objects
    examine(objects)
    assert None not in _leaves(objects)
    instances = {one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in objects}
    assert instances == {name}


def test_a_password_of_digits_is_a_text() -> None:
    digits = "1234567890123456"
    for base in (DEV, DEV | {"valkey": {"enabled": True, "password": digits, "storageClassName": "123"}}):
        examine(render(base).objects)
    secrets = of_kind(render({**DEV, "valkey": {"enabled": True, "password": digits}}).objects, "Secret")
    assert secrets["tessera-valkey"]["stringData"]["REDISCLI_AUTH"] == digits


def test_a_host_may_begin_with_a_star() -> None:
    host = "*.example.com"
    api = {"enabled": True, "ingress": {"host": host, "tlsSecret": "tls"}, "gateway": {"name": "all", "hostname": host}}
    objects = render({"api": api}).objects
    (ingress,) = of_kind(objects, "Ingress").values()
    assert (ingress["spec"]["tls"][0]["hosts"], ingress["spec"]["rules"][0]["host"]) == ([host], host)
    (route,) = of_kind(objects, "HTTPRoute").values()
    assert route["spec"]["hostnames"] == [host]
