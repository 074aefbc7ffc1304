"""Creating an attempt's Job, and finding that it is there already."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from k8s.launcher import KubernetesLauncher
from pipeline.records.attempt import AttemptPhase, AttemptSpec, Code, LaunchResult, NameTaken
from tests.cluster.api import Namespace, until

MakeSpec = Callable[..., AttemptSpec]
MakeLauncher = Callable[..., KubernetesLauncher]


def test_a_launched_attempt_is_one_job_with_one_pod(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    assert launcher.launch(spec) is LaunchResult.CREATED
    (job,) = namespace.jobs()
    assert job["metadata"]["name"] == spec.name
    assert job["spec"]["backoffLimit"] == 0
    pod = namespace.pod_of(spec.name)
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["activeDeadlineSeconds"] == 3600
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_an_attempt_that_is_there_is_adopted(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    launcher.launch(make_spec())
    assert launcher.launch(make_spec()) is LaunchResult.ADOPTED
    assert len(namespace.jobs()) == 1


def test_an_upgrade_of_the_workers_adopts_what_runs(make_launcher: MakeLauncher, make_spec: MakeSpec) -> None:
    make_launcher().launch(make_spec())
    upgraded = make_launcher({"shm_size": "32Gi", "grace_s": 120})
    assert upgraded.launch(make_spec()) is LaunchResult.ADOPTED


def test_a_spec_that_another_version_hashed_is_compared_as_it_reads(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    launcher.launch(spec)
    annotated = {"metadata": {"annotations": {"tessera/spec-digest": "of an older version"}}}
    namespace.api.do("PATCH", namespace.batch(f"jobs/{spec.name}"), annotated, merge=True)
    assert launcher.launch(spec) is LaunchResult.ADOPTED


def test_a_name_with_another_spec_is_taken(launcher: KubernetesLauncher, make_spec: MakeSpec) -> None:
    launcher.launch(make_spec(token="one"))
    with pytest.raises(NameTaken):
        launcher.launch(make_spec(token="two"))


def test_somebody_elses_job_is_not_adopted(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    container = {"name": "other", "image": "other"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    body = {"kind": "Job", "metadata": {"name": make_spec().name}, "spec": {"template": template}}
    namespace.api.do("POST", namespace.batch("jobs"), body)
    with pytest.raises(NameTaken):
        launcher.launch(make_spec())
    assert make_spec().name not in launcher.observe()


def test_a_job_that_is_being_deleted_is_not_adopted(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    launcher.launch(spec)
    held = {"metadata": {"finalizers": ["tessera/test"]}}
    namespace.api.do("PATCH", namespace.batch(f"jobs/{spec.name}"), held, merge=True)
    launcher.delete(spec.name)
    with pytest.raises(NameTaken):
        launcher.launch(spec)
    namespace.api.do("PATCH", namespace.batch(f"jobs/{spec.name}"), {"metadata": {"finalizers": None}}, merge=True)


@pytest.mark.parametrize("pod", [{"tolerations": [{"operator": "Sometimes"}]}, {"requests": {"memory": "much"}}])
def test_a_job_that_the_cluster_will_never_take_has_ended_with_its_words(
    make_launcher: MakeLauncher, make_spec: MakeSpec, pod: dict[str, Any]
) -> None:
    launcher = make_launcher(pod)
    spec = make_spec()
    launcher.launch(spec)
    seen = launcher.observe()[spec.name]
    assert seen.phase is AttemptPhase.ENDED
    assert seen.outcome is not None
    assert seen.outcome.code is Code.CONFIG_ERROR
    assert next(iter(pod)) in seen.outcome.reason or "quantities" in seen.outcome.reason
    launcher.delete(spec.name)
    assert spec.name not in launcher.observe()


def test_two_hundred_attempts_at_once(
    launcher: KubernetesLauncher,
    namespace: Namespace,
    make_spec: MakeSpec,
    record_testsuite_property: Callable[..., None],
) -> None:
    namespace.add_node(gpus=1600, pods=300)
    specs = [make_spec(index) for index in range(200)]
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(launcher.launch, specs)) == {LaunchResult.CREATED}
        created_s = time.monotonic() - began
        assert set(pool.map(launcher.launch, specs)) == {LaunchResult.ADOPTED}
    until(lambda: sum("nodeName" in pod["spec"] for pod in namespace.pods()) == 200, "200 pods on a node")
    began = time.monotonic()
    seen = launcher.observe()
    observed_s = time.monotonic() - began
    record_testsuite_property("created_s", round(created_s, 2))
    record_testsuite_property("observed_s", round(observed_s, 2))
    assert set(seen) == {spec.name for spec in specs}
    assert {one.phase for one in seen.values()} == {AttemptPhase.PENDING}
    assert {one.job_index for one in seen.values()} == set(range(200))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(launcher.delete, [spec.name for spec in specs]))
    for pod in namespace.pods():
        namespace.confirm_deletion(pod)
    assert until(lambda: not launcher.observe(), "the end of all")
