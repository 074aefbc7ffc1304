"""The chart in a real control plane, by Helm's server-side apply, and what its `helm test` asks of the cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embedded.services.services import Services, no_proxy
from tasks.probe import main
from tests.cluster.api import Namespace, until
from tests.helm.chart import CHART, VALUES, helm, of_kind, render

# This server is older than the chart's Kubernetes and has PodDisruptionBudgets and autoscalers under other names, and
# nobody has installed the kinds of the Prometheus operator and of the Gateway API.
NOT_HERE = (
    "podDisruptionBudget.enabled=false,metrics.serviceMonitor.enabled=false,metrics.rules.enabled=false,"
    "api.gateway.name=,api.maxReplicas=0"
)


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(CHART, tmp_path / "tessera"))
    text = (copy / "Chart.yaml").read_text()
    (copy / "Chart.yaml").write_text("".join(line for line in text.splitlines(True) if "kubeVersion" not in line))
    return copy


@pytest.fixture
def run(namespace: Namespace, tmp_path: Path) -> Callable[..., str]:
    kubeconfig = namespace.api.access.written(tmp_path / "helm.json", namespace.name)

    def ran(*arguments: str | Path) -> str:
        command = [helm(), *arguments, "--namespace", namespace.name, "--kubeconfig", kubeconfig]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return ran


def _accounts(namespace: Namespace) -> set[str]:
    items = namespace.api.do("GET", namespace.core("serviceaccounts"))["items"]
    return {item["metadata"]["name"] for item in items}


def test_two_releases_are_installed_upgraded_and_removed(
    run: Callable[..., str], chart: Path, namespace: Namespace
) -> None:
    for release, values in (("one", "least"), ("night", "fullest")):
        install = ("upgrade", "--install", release, chart, "--values", VALUES / f"{values}.yaml", "--set", NOT_HERE)
        run(*install)
        run(*install)
        run(*install, "--set", "settings.tick_s=3,controller.extraEnv.MORE=x,controller.extraEnv.HOME=/home")
    assert _accounts(namespace) >= {"one-tessera-worker", "one-tessera-pod", "renders-worker", "renders-pod"}
    run("uninstall", "one")
    assert "were kept" in run("uninstall", "night")
    assert not _accounts(namespace) & {"one-tessera-worker", "renders-worker"}
    claims = namespace.api.do("GET", namespace.core("persistentvolumeclaims"))["items"]
    assert "studio-renders-weights" in {claim["metadata"]["name"] for claim in claims}


@pytest.fixture
def in_cluster(namespace: Namespace, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container of the chart's `helm test` has: its settings, and the workers' account."""
    kubeconfig = namespace.api.access.written(tmp_path / "worker.json", namespace.name, token=token)
    (config,) = of_kind(render(namespace=namespace.name).objects, "ConfigMap").values()
    for name, value in config["data"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TESSERA_REDIS_URL", "redis://:password@redis:6379/0")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.mark.usefixtures("in_cluster")
def test_the_helm_test_finds_that_jobs_may_be_made_and_leaves_none(namespace: Namespace) -> None:
    assert main(["cluster"]) == 0
    assert namespace.jobs() == []
    assert namespace.pods() == []


@pytest.mark.usefixtures("in_cluster")
def test_the_helm_test_says_what_is_not_allowed(
    namespace: Namespace, grant: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kubeconfig = namespace.api.access.written(tmp_path / "nobody.json", namespace.name, token=grant([], name="nobody"))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    assert main(["cluster"]) == 1
    assert 'cannot create resource "jobs"' in capsys.readouterr().err


@pytest.mark.usefixtures("in_cluster")
def test_the_charts_containers_start_become_ready_and_pass_helm_test(
    namespace: Namespace, services: Services, tmp_path: Path
) -> None:
    settings = services.settings
    where = {"endpoint": settings["s3_endpoint"], "region": settings["s3_region"], "bucket": settings["s3_bucket"]}
    objects = render({"s3": where}, namespace=namespace.name).objects
    (config,) = of_kind(objects, "ConfigMap").values()
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("TESSERA_", "AWS_"))}
    secrets = services.credentials | {"TESSERA_REDIS_URL": settings["redis_url"]}
    environment = plain | no_proxy(os.environ) | config["data"] | secrets

    def started(command: list[str], log: str) -> subprocess.Popen[bytes]:
        ours = Path(sys.executable).parent / command[0]  # or the system's: a probe is a line for sh
        here = [word.replace("/tmp/", f"{tmp_path}/") if word != "/tmp" else str(tmp_path) for word in command[1:]]  # noqa: S108
        with (tmp_path / f"{log}.log").open("wb") as file:
            program = ours if ours.exists() else command[0]
            return subprocess.Popen([program, *here], env=environment, stdout=file, stderr=file)

    containers = {
        name: deployment["spec"]["template"]["spec"]["containers"][0]
        for name, deployment in of_kind(objects, "Deployment").items()
    }
    workers = {name: started(container["command"], name) for name, container in containers.items()}
    try:
        for name, container in containers.items():
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                command = container[probe]["exec"]["command"]
                until(lambda: started(command, "probe").wait() == 0, f"{probe} of {name}")  # noqa: B023 - at once
        for name, pod in of_kind(objects, "Pod").items():
            ended = started(pod["spec"]["containers"][0]["command"], name).wait()
            assert ended == 0, (tmp_path / f"{name}.log").read_text()
    finally:
        for worker in workers.values():
            worker.terminate()
        assert {name: worker.wait() for name, worker in workers.items()} == dict.fromkeys(workers, 0)
