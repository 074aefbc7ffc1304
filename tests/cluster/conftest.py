"""A namespace of its own for each test, and the launcher in it, with no more rights than the chart's Role gives."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster import RULES, Cluster
from k8s.launcher import KubernetesLauncher
from k8s.pod import pod_settings
from pipeline.deployment.settings import Settings, load_settings
from pipeline.names import attempt_name
from pipeline.records.attempt import AttemptSpec
from tests.cluster.api import Access, Api, Json, Namespace, kubeconfig_of_the_run, until
from tests.cluster.proxy import Proxy, proxy_to

IMAGE = "registry.example/tessera@sha256:" + "0" * 64


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    return kubeconfig_of_the_run()


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> Api:
    return Api(Access.of(kubeconfig))


@pytest.fixture
def namespace(api: Api) -> Iterator[Namespace]:
    name = f"tessera-{uuid.uuid4().hex[:8]}"
    api.do("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    found = Namespace(api, name)
    until(lambda: api.ask("GET", found.core("serviceaccounts/default"))[0] == 200, "the default account")
    yield found
    found.destroy()


@pytest.fixture
def grant(namespace: Namespace) -> Callable[..., str]:
    """Makes a service account with these rules in the namespace, and returns its token."""

    def made(rules: list[Json], name: str = "worker") -> str:
        api = namespace.api
        head: Json = {"metadata": {"name": name}}
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace.name}"
        api.do("POST", namespace.core("serviceaccounts"), {"apiVersion": "v1", "kind": "ServiceAccount", **head})
        api.do("POST", f"{rbac}/roles", {"kind": "Role", **head, "rules": rules})
        binding = {
            "kind": "RoleBinding",
            **head,
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace.name}],
            "roleRef": {"kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io"},
        }
        api.do("POST", f"{rbac}/rolebindings", binding)
        token: Json = {
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {"name": f"{name}-token", "annotations": {"kubernetes.io/service-account.name": name}},
        }
        api.do("POST", namespace.core("secrets"), token)
        data = until(
            lambda: api.do("GET", namespace.core(f"secrets/{name}-token")).get("data", {}).get("token"), "a token"
        )
        return base64.b64decode(data).decode()

    return made


@pytest.fixture
def token(grant: Callable[..., str]) -> str:
    """Of an account with exactly what the chart's Role allows."""
    return grant(RULES)


@pytest.fixture
def make_settings(namespace: Namespace) -> Callable[..., Settings]:
    def made(pod: Json | None = None, **changes: Any) -> Settings:
        plain: Json = {"node_selector": namespace.selector, "requests": {}, "limits": {}, "request_timeout_s": 60}
        values: Json = {
            "redis_url": "redis://redis.example:6379/0",
            "s3_bucket": "renders",
            "image": IMAGE,
            "launcher": "kubernetes",
            "pod": plain | (pod or {}),
        }
        return load_settings({}, **(values | changes))

    return made


@pytest.fixture
def make_launcher(  # noqa: PLR0917 - fixtures are named, not placed
    namespace: Namespace,
    api: Api,
    token: str,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., KubernetesLauncher]:
    """Makes a launcher as a worker has it: by KUBECONFIG, as the worker's account."""

    def made(
        pod: Json | None = None,
        *,
        server: str | None = None,
        as_token: str | None = None,
        save_log: Callable[[str, str], None] = lambda _key, _text: None,
        **changes: Any,
    ) -> KubernetesLauncher:
        path = api.access.written(
            tmp_path / f"{uuid.uuid4().hex}.json", namespace.name, server=server, token=as_token or token
        )
        monkeypatch.setenv("KUBECONFIG", str(path))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        settings = make_settings(pod, **changes)
        parsed = pod_settings(settings)
        cluster = Cluster.connect(parsed.namespace, parsed.request_timeout_s)
        return KubernetesLauncher(cluster, settings, parsed, save_log=save_log)

    return made


@pytest.fixture
def launcher(make_launcher: Callable[..., KubernetesLauncher]) -> KubernetesLauncher:
    return make_launcher()


@pytest.fixture
def proxy(api: Api) -> Iterator[Proxy]:
    with proxy_to(api.access) as running:
        yield running


@pytest.fixture
def make_spec(namespace: Namespace) -> Callable[..., AttemptSpec]:
    incarnation = namespace.name.removeprefix("tessera-")

    def made(job_index: int = 0, number: int = 1, **changes: Any) -> AttemptSpec:
        values: Json = {
            "name": attempt_name(incarnation, job_index, number),
            "batch_id": "Summer.Catalogue_2026",
            "incarnation": incarnation,
            "job_index": job_index,
            "number": number,
            "token": f"token-{job_index}-{number}",
            "image": IMAGE,
            "gpus": 8,
            "layout": "1x2x4",
            "exact": False,
            "warmup_steps": 4,
            "device": "cuda",
            "dtype": "float16",
            "shard_key": "batches/Summer.Catalogue_2026/shards/00000.jsonl",
            "deadline_s": 3600.0,
        }
        return AttemptSpec(**(values | changes))

    return made


@pytest.fixture
def cluster_processes(kubeconfig: Path) -> Path:
    """The folder of a cluster whose processes a test may stop; skips for a cluster that was made elsewhere."""
    if not (kubeconfig.parent / "pids").exists():
        pytest.skip("this cluster's API server is not ours to stop")
    return kubeconfig.parent
