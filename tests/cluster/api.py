"""The tests' own way to the cluster: plain requests with an administrator's token, apart from the code under test."""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import urllib3
import yaml

T = TypeVar("T")

Json = dict[str, Any]

# Limits for what never comes, not for what is slow: other tests may run beside these.
_ANSWER_S, _NEVER_S = 60.0, 600.0


@dataclass(frozen=True)
class Access:
    """Where a cluster is, and who asks."""

    server: str
    authority: str
    token: str

    @classmethod
    def of(cls, kubeconfig: Path) -> Access:
        found = yaml.safe_load(kubeconfig.read_text())
        cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
        return cls(cluster["server"], base64.b64decode(cluster["certificate-authority-data"]).decode(), user["token"])

    def written(self, path: Path, namespace: str, *, server: str | None = None, token: str | None = None) -> Path:
        """A kubeconfig for this cluster, perhaps through another address or as another user."""
        cluster: Json = {"server": server or self.server}
        if server is None:
            cluster["certificate-authority-data"] = base64.b64encode(self.authority.encode()).decode()
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": token or self.token}}],
                }
            )
        )
        return path


class Api:
    """Requests as an administrator."""

    def __init__(self, access: Access) -> None:
        self.access = access
        context = ssl.create_default_context(cadata=access.authority)
        self._pool = urllib3.PoolManager(ssl_context=context, retries=urllib3.Retry(3), maxsize=8)

    def ask(self, method: str, path: str, body: Json | None = None, *, merge: bool = False) -> tuple[int, Json]:
        kind = "application/strategic-merge-patch+json" if merge else "application/json"
        answer = self._pool.request(
            method,
            self.access.server + path,
            headers={"Authorization": f"Bearer {self.access.token}", "Content-Type": kind},
            body=None if body is None else json.dumps(body),
            timeout=_ANSWER_S,
        )
        return answer.status, json.loads(answer.data)

    def do(self, method: str, path: str, body: Json | None = None, *, merge: bool = False) -> Json:
        """The answer; anything but success fails the test."""
        status, answer = self.ask(method, path, body, merge=merge)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer


class Namespace:
    """A namespace of one test, with nodes of its own that its pods choose by a label."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.name = api, name
        self._nodes: list[str] = []

    @property
    def selector(self) -> dict[str, str]:
        return {"tessera/test": self.name}

    def core(self, rest: str) -> str:
        return f"/api/v1/namespaces/{self.name}/{rest}"

    def batch(self, rest: str) -> str:
        return f"/apis/batch/v1/namespaces/{self.name}/{rest}"

    def add_node(self, gpus: int = 8, pods: int = 110, *, chosen: bool = True) -> str:
        """A node that is Ready; whoever plays its kubelet says what becomes of its pods, if they can choose it."""
        name = f"{self.name}-node-{len(self._nodes)}"
        metadata = {"name": name, "labels": self.selector if chosen else {}}
        self.api.do("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        capacity = {"cpu": "9600", "memory": "100Ti", "pods": str(pods), "nvidia.com/gpu": str(gpus)}
        ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "no kubelet"}
        status = {"status": {"capacity": capacity, "conditions": [ready]}}
        self.api.do("PATCH", f"/api/v1/nodes/{name}/status", status, merge=True)
        self._nodes.append(name)
        return name

    def lose_node(self, name: str) -> None:
        """Nobody hears of the node any more."""
        gone = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "no word from it"}
        self.api.do("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"conditions": [gone]}}, merge=True)

    def pods(self) -> list[Json]:
        items: list[Json] = self.api.do("GET", self.core("pods"))["items"]
        return items

    def jobs(self) -> list[Json]:
        items: list[Json] = self.api.do("GET", self.batch("jobs"))["items"]
        return items

    def pod_of(self, job: str) -> Json:
        """The Job's pod, once it is there."""
        return until(
            lambda: next((pod for pod in self.pods() if pod["metadata"]["labels"].get("job-name") == job), None),
            f"a pod of {job}",
        )

    def bound_pod_of(self, job: str) -> Json:
        """The Job's pod, once it is on a node."""
        return until(lambda: pod if (pod := self.pod_of(job))["spec"].get("nodeName") else None, "a node for it")

    def report(self, pod: Json, **status: Any) -> None:
        """Say, as a kubelet, what became of a pod."""
        self.api.do("PATCH", self.core(f"pods/{pod['metadata']['name']}/status"), {"status": status}, merge=True)

    def start(self, pod: Json) -> None:
        state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        self.report(
            pod,
            phase="Running",
            conditions=[{"type": "Ready", "status": "True"}],
            containerStatuses=[_container(pod, state, ready=True)],
        )

    def end(self, pod: Json, exit_code: int, message: str = "", reason: str = "") -> None:
        why = reason or ("Completed" if exit_code == 0 else "Error")
        state = {"terminated": {"exitCode": exit_code, "reason": why, "message": message}}
        phase = "Failed" if exit_code else "Succeeded"
        self.report(
            pod,
            phase=phase,
            conditions=[{"type": "Ready", "status": "False", "reason": "PodFailed"}],
            containerStatuses=[_container(pod, state, ready=False)],
        )

    def confirm_deletion(self, pod: Json) -> None:
        """Say, as a kubelet, that nothing of a pod that is being deleted runs any more."""
        options: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        status, answer = self.api.ask("DELETE", self.core(f"pods/{pod['metadata']['name']}"), options)
        assert status in (200, 404), answer

    def destroy(self) -> None:
        """Remove everything, playing the kubelet for what is left."""
        # Jobs before pods: a Job would replace a pod that went before it.
        background = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self.api.do("DELETE", self.batch("jobs"), background)
        self.api.do("DELETE", self.core("pods"), {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
        self.api.do("DELETE", f"/api/v1/namespaces/{self.name}")
        for node in self._nodes:
            self.api.do("DELETE", f"/api/v1/nodes/{node}")


def _container(pod: Json, state: Json, *, ready: bool) -> Json:
    image = pod["spec"]["containers"][0]["image"]
    return {"name": "render", "image": image, "imageID": "", "ready": ready, "restartCount": 0, "state": state}


def until(condition: Callable[[], T | None], what: str = "the condition") -> T:
    """The first true value of `condition`."""
    deadline = time.monotonic() + _NEVER_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true in {_NEVER_S:.0f} s; last value {value!r}")
        time.sleep(0.05)
    return value


def kubeconfig_of_the_run() -> Path:
    """Where KUBECONFIG points; skips unless this run is meant to use a cluster, and fails if it is and has none.

    A developer's KUBECONFIG may name anything, so it alone is no permission to make nodes and namespaces there.
    """
    if os.environ.get("CLUSTER_TESTS") != "required":
        pytest.skip("needs a cluster of its own: CLUSTER_TESTS=required KUBECONFIG=... pytest tests/cluster")
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("CLUSTER_TESTS=required, and KUBECONFIG names no cluster")
    return Path(os.environ["KUBECONFIG"])
