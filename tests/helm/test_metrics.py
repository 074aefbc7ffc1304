"""Metrics in the chart: found by the monitor, allowed by the policy, and shown by names that the program has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import promql_parser

from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger
from tasks.process.metrics import LedgerMetrics, Metrics
from tests.helm.chart import CHART, Object, of_kind, render

ON = {"metrics": {"enabled": True, "port": 9500}}
ALL = {"metrics": {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboard")} | {"enabled": True}}


def _names(node: Any) -> Iterator[str]:
    """Names of the series that an expression reads."""
    if isinstance(node, promql_parser.VectorSelector) and node.name:
        yield node.name
    for part in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(node, part, None)) is not None:
            yield from _names(inner)
    for argument in getattr(node, "args", None) or ():
        yield from _names(argument)


def _expressions() -> list[str]:
    (rules,) = of_kind(render(ALL).objects, "PrometheusRule").values()
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    return [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]] + [
        target["expr"].replace("$__rate_interval", "5m") for panel in dashboard["panels"] for target in panel["targets"]
    ]


def test_rules_and_dashboard_read_only_series_that_the_program_has(settings: Settings) -> None:
    metrics = Metrics()
    metrics.registry.register(LedgerMetrics(Ledger(settings)))
    known = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    # A histogram's samples, and of labelled counters those that have their first value only later.
    known |= {"tessera_phase_seconds_total"}
    read = {name for text in _expressions() for name in _names(promql_parser.parse(text))}
    assert len(read) > 10
    assert read <= known


def test_the_service_finds_the_pods_that_serve(least: list[Object]) -> None:
    objects = render(ON).objects
    (service,) = (one for name, one in of_kind(objects, "Service").items() if name.endswith("-metrics"))
    (port,) = service["spec"]["ports"]
    selected = set()
    for one in of_kind(objects, "Deployment").values():
        template = one["spec"]["template"]
        if service["spec"]["selector"].items() <= template["metadata"]["labels"].items():
            (own,) = template["spec"]["containers"][0]["ports"]
            assert (own["name"], own["containerPort"]) == (port["targetPort"], 9500)
            selected.add(one["metadata"]["labels"]["app.kubernetes.io/component"])
        else:
            assert "ports" not in template["spec"]["containers"][0]
    assert selected == {"render-worker", "controller"}
    (config,) = (one for name, one in of_kind(objects, "ConfigMap").items() if name.endswith("-settings"))
    assert config["data"]["TESSERA_METRICS_PORT"] == "9500"
    assert not [one for one in least if one["metadata"]["name"].endswith("-metrics")]


def test_the_monitor_selects_the_service() -> None:
    objects = render(ALL).objects
    (monitor,) = of_kind(objects, "ServiceMonitor").values()
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert [
        name for name, one in of_kind(objects, "Service").items() if wanted <= one["metadata"]["labels"].items()
    ] == [monitor["metadata"]["name"]]


def test_the_policy_lets_only_scrapes_in() -> None:
    policies = of_kind(render(ON).objects, "NetworkPolicy")
    workers = next(one for name, one in policies.items() if name.endswith("-workers"))
    others = next(one for name, one in policies.items() if name.endswith("-pods"))
    assert workers["spec"]["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}]}]
    assert others["spec"]["ingress"] == []
