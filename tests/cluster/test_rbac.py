"""A worker's rights: those of the Role are enough (every other test runs with them), and each of them is needed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from k8s.cluster import RULES, Cluster, ClusterUnavailable
from k8s.launcher import KubernetesLauncher
from k8s.pod import PodSettings
from pipeline.records.attempt import AttemptPhase, AttemptSpec
from tests.cluster.api import Json, Namespace, until

MakeSpec = Callable[..., AttemptSpec]
MakeLauncher = Callable[..., KubernetesLauncher]

RIGHTS = [(rule["resources"][0], verb) for rule in RULES for verb in rule["verbs"]]


def _without(resource: str, verb: str) -> list[Json]:
    rules: list[Json] = copy.deepcopy(RULES)
    for rule in rules:
        if rule["resources"] == [resource]:
            rule["verbs"].remove(verb)
    return [rule for rule in rules if rule["verbs"]]


def _everything(launcher: KubernetesLauncher, namespace: Namespace, spec: AttemptSpec) -> None:
    """Every request that a launcher makes; raises if one of them that matters is refused."""
    namespace.add_node()
    launcher.launch(spec)
    launcher.launch(spec)
    pod = namespace.bound_pod_of(spec.name)
    launcher.observe()
    namespace.start(pod)
    namespace.end(pod, 1, reason="Error")
    until(lambda: launcher.observe()[spec.name].phase is AttemptPhase.ENDED, "the end")
    launcher.delete(spec.name)


# Without these a log is not saved, or lists are more frequent; the worker's log says so.
DONE_WITHOUT = {("pods", "get"), ("pods", "watch"), ("jobs", "watch"), ("pods/log", "get"), ("events", "list")}


@pytest.mark.parametrize(("resource", "verb"), sorted(set(RIGHTS) - DONE_WITHOUT))
def test_without_one_right_the_launcher_says_so(  # noqa: PLR0917 - fixtures are named, not placed
    grant: Callable[..., str],
    make_launcher: MakeLauncher,
    namespace: Namespace,
    make_spec: MakeSpec,
    resource: str,
    verb: str,
) -> None:
    launcher = make_launcher(as_token=grant(_without(resource, verb), name="poorer"))
    with pytest.raises(ClusterUnavailable, match=f'cannot {verb} resource "{resource}"'):
        _everything(launcher, namespace, make_spec())


def test_with_all_rights_it_does_everything(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    _everything(launcher, namespace, make_spec())


def test_pods_logs_and_events_may_be_read(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    namespace.add_node()
    launcher.launch(make_spec())
    pod = namespace.bound_pod_of(make_spec().name)
    cluster = Cluster.connect(None, PodSettings().request_timeout_s)
    assert cluster.events()
    found = cluster.pod(pod["metadata"]["name"])
    assert found is not None
    assert found["metadata"]["uid"] == pod["metadata"]["uid"]
    assert cluster.pod("absent") is None
    # Nobody serves the log of this pod, so any answer but "forbidden" shows that the right is there.
    path = f"{cluster._pods}/{pod['metadata']['name']}/log"
    status, answer = cluster._send("GET", path, {"container": "render"}, None)
    assert status != 403, answer


def test_a_worker_in_a_pod_finds_its_cluster_by_its_service_account(
    namespace: Namespace, token: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = namespace.api.access
    for name, text in (("token", token), ("ca.crt", access.authority), ("namespace", namespace.name)):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("k8s.cluster._NAMESPACE_FILE", tmp_path / "namespace")
    address = urlsplit(access.server)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))
    monkeypatch.delenv("KUBECONFIG")
    cluster = Cluster.connect(None, 5)
    assert cluster.namespace == namespace.name
    assert cluster.jobs("tessera/deployment=nobody") == []


def test_an_unknown_user_is_refused_and_nothing_fails(make_launcher: MakeLauncher, make_spec: MakeSpec) -> None:
    launcher = make_launcher(as_token="nobody's")
    with pytest.raises(ClusterUnavailable, match="401"):
        launcher.launch(make_spec())


@pytest.mark.parametrize(("resource", "verb"), sorted(DONE_WITHOUT))
def test_without_a_lesser_right_an_attempt_is_seen_through(  # noqa: PLR0917 - fixtures are named, not placed
    grant: Callable[..., str],
    make_launcher: MakeLauncher,
    namespace: Namespace,
    make_spec: MakeSpec,
    resource: str,
    verb: str,
) -> None:
    launcher = make_launcher(as_token=grant(_without(resource, verb), name="poorer"))
    launcher.quiet_since(0)
    _everything(launcher, namespace, make_spec())
    until(lambda: not namespace.jobs(), "the end of the Job")
    if verb == "watch":
        assert not launcher.quiet_since(time.monotonic())
