"""The chart as a dependency of another one: switched by its condition, twice under two aliases, with values for all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, VALUES, Object, of_kind, run_helm

LEAST = yaml.safe_load((VALUES / "least.yaml").read_text())


@pytest.fixture
def umbrella(tmp_path: Path) -> Path:
    """A chart with this one as its dependencies `day` and `night`, both with the least values."""
    shutil.copytree(CHART, tmp_path / "charts" / "tessera")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    dependencies = [
        {"name": "tessera", "version": version, "alias": alias, "condition": f"{alias}.enabled"}
        for alias in ("day", "night")
    ]
    chart = {"apiVersion": "v2", "name": "studio", "version": "1.0.0", "dependencies": dependencies}
    (tmp_path / "Chart.yaml").write_text(json.dumps(chart))
    (tmp_path / "values.yaml").write_text(json.dumps({alias: {**LEAST, "enabled": True} for alias in ("day", "night")}))
    return tmp_path


def _rendered(umbrella: Path, **values: Any) -> list[Object]:
    file = umbrella / "more.yaml"
    file.write_text(json.dumps(values))
    return run_helm("template", "studio", str(umbrella), "--namespace", "render", "--values", str(file)).objects


def _settings(objects: list[Object], name: str) -> dict[str, str]:
    found: dict[str, str] = of_kind(objects, "ConfigMap")[name]["data"]
    return found


def test_two_aliases_are_two_deployments(umbrella: Path) -> None:
    """The controller deletes what its deployment's label is on and its ledger does not know."""
    objects = _rendered(umbrella)
    for name in ("TESSERA_REDIS_PREFIX", "TESSERA_S3_PREFIX"):
        prefixes = [_settings(objects, f"studio-{alias}-settings")[name] for alias in ("day", "night")]
        assert prefixes == ["render--studio--day", "render--studio--night"]


def test_its_condition_switches_a_dependency(umbrella: Path) -> None:
    objects = _rendered(umbrella, night={"enabled": False})
    assert {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in objects} == {"day"}


def test_secrets_for_all_charts_may_be_listed_as_kubernetes_lists_them(umbrella: Path) -> None:
    objects = _rendered(umbrella, **{"global": {"imagePullSecrets": [{"name": "registry"}, "mirror"]}})
    spec = of_kind(objects, "Deployment")["studio-day-beat"]["spec"]["template"]["spec"]
    assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]
    pod = json.loads(_settings(objects, "studio-day-settings")["TESSERA_POD"])
    assert pod["image_pull_secrets"] == ["registry", "mirror"]
