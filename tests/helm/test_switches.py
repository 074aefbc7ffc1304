"""Every switch renders, passes Helm's lint, and makes objects that Kubernetes 1.31 to 1.37 take as they are."""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema
import pytest
from kubernetes_validate import utils as kubernetes  # type: ignore[import-untyped]

from tests.helm import gateway, operator
from tests.helm.chart import Object, lint, pods, render

KUBERNETES = [f"1.{minor}" for minor in range(31, 38)]

# Kinds that no schema of Kubernetes knows.
OTHERS = {operator.API: operator.SCHEMAS, gateway.API: gateway.SCHEMAS}

DEV = {"redis": {"existingSecret": ""}, "valkey": {"enabled": True, "password": "correct-horse-battery"}}
CLAIM = {"pod": {"models_claim": None}, "weights": {"claim": {"create": True}}}

METRICS = {
    "metrics": {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboard")} | {"enabled": True}
}

SWITCHES: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "mirror": {"global": {"imageRegistry": "mirror.example.com/hub"}},
    "registry secrets": {"global": {"imagePullSecrets": ["one", "two"]}},
    "names": {"nameOverride": "studio"},
    "full names": {"fullnameOverride": "studio"},
    "deployment": {"deployment": "studio"},
    "digests": {"image": {"digest": "sha256:" + "1" * 64}, "engineImage": {"digest": "sha256:" + "2" * 64}},
    "redis without password": {"redis": {"existingSecret": "", "url": "redis://redis.data:6379/0"}},
    "redis by sentinels": {"redis": {"existingSecret": "", "url": "sentinel://one:26379,two:26379/main?db=0"}},
    "redis with tls": {"redis": {"tls": {"caSecret": "redis-ca"}}},
    "redis with client certificates and a user for pods": {
        "redis": {"podExistingSecret": "pods", "tls": {"caSecret": "redis-ca", "clientSecret": "redis-client"}}
    },
    "s3 by workload identity": {"s3": {"existingSecret": ""}},
    "one secret for both": {"s3": {"existingSecret": "tessera-redis"}},
    "claim": CLAIM,
    "claim and warm-up": {**CLAIM, "weights": {"claim": {"create": True}, "warmUp": {"source": "models/"}}},
    "claim and the hub": {
        **CLAIM,
        "weights": {
            "claim": {"create": True},
            "warmUp": {
                "hub": {"repository": "studio/xl", "revision": "4" * 40, "folder": "xl", "existingSecret": "hub-token"}
            },
        },
    },
    "weights in an image volume": {"pod": {"models_claim": None, "models_image": "registry.example.com/sdxl:1"}},
    "weights in a node's cache": {
        "pod": {
            "models_claim": None,
            "models_cache": {"source": "models/", "volume": {"hostPath": {"path": "/var/cache/sdxl"}}},
        }
    },
    "kueue": {"pod": {"kueue_queue": "renders"}},
    "api by an ingress": {
        "api": {
            "enabled": True,
            "redisExistingSecret": "api",
            "ingress": {"host": "render.example.com", "className": "nginx", "tlsSecret": "render-tls"},
        }
    },
    "api by a gateway": {
        "api": {
            "enabled": True,
            "gateway": {"name": "public", "namespace": "gateways", "hostname": "render.example.com"},
            "maxReplicas": 6,
            "allowedFrom": [{"namespaceSelector": {"matchLabels": {"name": "gateways"}}}],
        }
    },
    "no render workers": {"renderWorkers": {"replicas": 0}},
    "no role": {"rbac": {"create": False}},
    "other accounts": {
        "serviceAccount": {"create": False, "name": "worker"},
        "podServiceAccount": {"create": False, "name": "pod"},
    },
    "default accounts": {"serviceAccount": {"create": False}, "podServiceAccount": {"create": False}},
    "no network policies": {"networkPolicy": {"enabled": False}},
    "egress": {"networkPolicy": {"egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}]}},
    "egress and valkey": {**DEV, "networkPolicy": {"egress": [{"ports": [{"port": 443}]}]}},
    "no disruption budgets": {"podDisruptionBudget": {"enabled": False}},
    "metrics": {"metrics": {"enabled": True}},
    "everything of metrics": METRICS,
    "valkey": DEV,
    "valkey without policies": {**DEV, "networkPolicy": {"enabled": False}},
}


@functools.cache
def _schema(name: str, version: str) -> Any:
    return _read_schema(name, version)


_read_schema = kubernetes.schema_contents


@pytest.fixture(autouse=True)
def schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "schema_contents", _schema)


@functools.cache
def _taken(text: str) -> None:
    """Raises if one of the versions does not know this kind of object, or one of its fields."""
    one = json.loads(text)
    if (others := OTHERS.get(one["apiVersion"])) is not None:
        jsonschema.validate(one, others[one["kind"]])
        return
    for version in KUBERNETES:
        assert kubernetes.validate(one, version, strict=True) == version


def examine(objects: list[Object]) -> None:
    for one in objects:
        _taken(json.dumps(one, sort_keys=True))
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    for name, _, spec in pods(objects):
        assert len({volume["name"] for volume in spec.get("volumes", ())}) == len(spec.get("volumes", ())), name
        for container in spec["containers"]:
            for key, identity in (("env", "name"), ("volumeMounts", "mountPath"), ("ports", "name")):
                found = [item[identity] for item in container.get(key, ())]
                assert len(set(found)) == len(found), f"{name}: server-side apply refuses a repeated {key}: {found}"


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_renders_what_every_kubernetes_takes(switch: str) -> None:
    values = SWITCHES[switch]
    answer = lint(values)
    assert answer.code == 0, answer.text + answer.complaint
    examine(render(values).objects)


def test_the_fullest_values_render_what_every_kubernetes_takes(fullest: list[Object]) -> None:
    assert lint(base="fullest").code == 0
    examine(fullest)


def test_an_unknown_field_or_kind_would_be_noticed(least: list[Object]) -> None:
    one = next(one for one in least if one["kind"] == "Deployment")
    with pytest.raises(kubernetes.ValidationError, match="replica_s"):
        kubernetes.validate({**one, "spec": {**one["spec"], "replica_s": 1}}, KUBERNETES[0], strict=True)
    with pytest.raises(kubernetes.SchemaNotFoundError):
        kubernetes.validate({**one, "kind": "Deploiment"}, KUBERNETES[0], strict=True)
