"""Ending an attempt: in the background, with its grace, and nothing left behind that holds GPUs."""

from __future__ import annotations

from collections.abc import Callable

from k8s.launcher import KubernetesLauncher
from pipeline.records.attempt import AttemptPhase, AttemptSpec
from tests.cluster.api import Namespace, until

MakeSpec = Callable[..., AttemptSpec]
MakeLauncher = Callable[..., KubernetesLauncher]


def _running(launcher: KubernetesLauncher, namespace: Namespace, spec: AttemptSpec) -> dict[str, object]:
    namespace.add_node()
    launcher.launch(spec)
    pod = namespace.bound_pod_of(spec.name)
    namespace.start(pod)
    return pod


def test_a_deleted_attempt_is_seen_to_run_until_its_pod_has_ended(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    pod = _running(launcher, namespace, spec)
    launcher.delete(spec.name)
    until(lambda: not namespace.jobs(), "the end of the Job")
    until(lambda: namespace.pods()[0]["metadata"].get("deletionTimestamp"), "the pod's deletion")
    assert namespace.pods()[0]["metadata"]["deletionGracePeriodSeconds"] == 60
    seen = launcher.observe()[spec.name]
    assert seen.phase is AttemptPhase.RUNNING
    assert seen.batch_id == spec.batch_id
    launcher.delete(spec.name)  # asking twice changes nothing
    namespace.confirm_deletion(pod)
    assert until(lambda: spec.name not in launcher.observe(), "the end of the attempt")


def test_deleting_what_is_not_there_does_nothing(launcher: KubernetesLauncher, make_spec: MakeSpec) -> None:
    launcher.delete(make_spec().name)


def test_a_pod_that_was_parted_from_its_job_is_seen_until_it_ends(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    pod = _running(launcher, namespace, spec)
    _part(namespace, spec)
    assert launcher.observe()[spec.name].phase is AttemptPhase.RUNNING
    launcher.delete(spec.name)  # there is no right to end it; it ends itself when its claim has
    namespace.end(pod, 1)
    assert until(lambda: spec.name not in launcher.observe(), "the end of the attempt")


def test_a_pod_that_was_parted_from_its_job_before_it_ran_counts_for_nothing(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    namespace.add_node()
    spec = make_spec()
    launcher.launch(spec)
    namespace.bound_pod_of(spec.name)
    _part(namespace, spec)
    assert spec.name not in launcher.observe()


def _part(namespace: Namespace, spec: AttemptSpec) -> None:
    orphaning = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"}
    namespace.api.do("DELETE", namespace.batch(f"jobs/{spec.name}"), orphaning)
    until(lambda: not namespace.jobs(), "the end of the Job")


def test_a_pod_that_nobody_reports_on_and_without_a_job_is_given_up(
    make_launcher: MakeLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    launcher = make_launcher({"clocks": {"node_lost_s": 0}, "grace_s": 16})
    spec = make_spec()
    _running(launcher, namespace, spec)
    launcher.delete(spec.name)
    until(lambda: namespace.pods()[0]["metadata"].get("deletionTimestamp"), "the pod's deletion")
    assert spec.name in launcher.observe()
    # Its grace period goes by, and no kubelet says a word.
    assert until(lambda: spec.name not in launcher.observe(), "giving it up")
    assert namespace.pods()
