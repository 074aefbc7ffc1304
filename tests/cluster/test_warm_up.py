"""Attempts wait while the Job that fills the claim with weights is under way, and for no longer."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.warm_up import WarmUp
from pipeline.deployment.settings import ModelSource
from tests.cluster.api import Namespace, until
from tests.cluster.test_launch import MakeLauncher

MODELS = {
    "sdxl": ModelSource(path="/models/sdxl", revision="1"),
    "built-in": ModelSource(path="/opt/model", revision="1"),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s.warm_up.LOOK_EVERY_S", 0.0)


def _create(namespace: Namespace, *, retries: int, **selector: str) -> None:
    container = {"name": "warm-up", "image": "worker:1", "command": ["true"]}
    pod = {"spec": {"restartPolicy": "Never", "containers": [container], "nodeSelector": namespace.selector | selector}}
    job = {"metadata": {"name": "warm-up"}, "spec": {"backoffLimit": retries, "template": pod}}
    namespace.api.do("POST", namespace.batch("jobs"), {"apiVersion": "batch/v1", "kind": "Job"} | job)


def _warm_up(make_launcher: MakeLauncher) -> WarmUp:
    launcher: Any = make_launcher({"models_job": "warm-up"}, models=MODELS)
    found = launcher._warm_up
    assert isinstance(found, WarmUp)
    return found


def test_attempts_wait_until_the_job_has_ended(make_launcher: MakeLauncher, namespace: Namespace) -> None:
    warm_up = _warm_up(make_launcher)
    assert warm_up.awaits(["sdxl"]) is None  # nobody copies anything: the pod will see whether it is there
    namespace.add_node()
    _create(namespace, retries=1)
    assert (warm_up.awaits(["sdxl"]) or "").startswith("the weights of sdxl are not there yet: Job warm-up ")
    assert warm_up.awaits(["built-in"]) is None
    pod = namespace.bound_pod_of("warm-up")
    namespace.start(pod)
    until(lambda: "copies and checks them" in (warm_up.awaits(["sdxl", "built-in"]) or ""))
    namespace.end(pod, 0)
    until(lambda: warm_up.awaits(["sdxl"]) is None)
    assert warm_up.failure is None


def test_a_job_that_fails_says_why_and_holds_nobody_up(make_launcher: MakeLauncher, namespace: Namespace) -> None:
    warm_up = _warm_up(make_launcher)
    namespace.add_node()
    _create(namespace, retries=0)
    namespace.end(namespace.bound_pod_of("warm-up"), 1, "weights: models/SHA256SUMS is not in s3://renders")
    until(lambda: warm_up.awaits(["sdxl"]) is None)
    assert warm_up.failure == "Job warm-up failed: weights: models/SHA256SUMS is not in s3://renders"


def test_a_job_without_a_node_says_so(make_launcher: MakeLauncher, namespace: Namespace) -> None:
    warm_up = _warm_up(make_launcher)
    _create(namespace, retries=0, nowhere="yes")
    until(lambda: "Job warm-up waits for a node: " in (warm_up.awaits(["sdxl"]) or ""))
