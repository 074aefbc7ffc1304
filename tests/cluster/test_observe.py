"""What a look at the cluster shows, through a pod's life."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from k8s.launcher import KubernetesLauncher
from pipeline.records.attempt import AttemptPhase, AttemptSpec, Code, Observation, PodReport
from tests.cluster.api import Namespace, until
from tests.cluster.proxy import Proxy

MakeSpec = Callable[..., AttemptSpec]
MakeLauncher = Callable[..., KubernetesLauncher]

REPORT = PodReport(code=Code.SUCCEEDED, committed=7).to_message()


def _seen(launcher: KubernetesLauncher, spec: AttemptSpec, phase: AttemptPhase, words: str = "") -> Observation:
    def look() -> Observation | None:
        seen = launcher.observe().get(spec.name)
        return seen if seen is not None and seen.phase is phase and words in seen.detail else None

    return until(look, f"{spec.name} {phase.value} with {words!r}")


def test_a_pods_life_as_it_passes(launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec) -> None:
    node = namespace.add_node()
    spec = make_spec()
    launcher.launch(spec)
    pod = namespace.bound_pod_of(spec.name)
    seen = _seen(launcher, spec, AttemptPhase.PENDING, node)
    assert (seen.batch_id, seen.job_index) == (spec.batch_id, spec.job_index)
    namespace.start(pod)
    _seen(launcher, spec, AttemptPhase.RUNNING, node)
    namespace.end(pod, 0, REPORT)
    outcome = _seen(launcher, spec, AttemptPhase.ENDED).outcome
    assert outcome is not None
    assert (outcome.code, outcome.exit_code, outcome.node) == (Code.SUCCEEDED, 0, node)
    assert outcome.report is not None
    assert outcome.report.committed == 7


def test_an_end_that_was_seen_outlives_its_pod(
    launcher: KubernetesLauncher, make_launcher: MakeLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    namespace.add_node()
    spec = make_spec()
    launcher.launch(spec)
    pod = namespace.bound_pod_of(spec.name)
    namespace.end(pod, 137, reason="OOMKilled")
    before = _seen(launcher, spec, AttemptPhase.ENDED)
    until(lambda: (namespace.jobs()[0]["status"].get("conditions") or [{}])[0].get("type") == "Failed", "Failed")
    namespace.confirm_deletion(pod)
    assert launcher.observe()[spec.name] == before
    # Whoever comes now has only the Job's word.
    outcome = _seen(make_launcher(), spec, AttemptPhase.ENDED).outcome
    assert outcome is not None
    assert outcome.code is Code.UNKNOWN


def test_an_unschedulable_pod_is_shown_with_the_schedulers_words_until_a_node_comes(
    make_launcher: MakeLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    namespace.add_node(gpus=4)
    launcher = make_launcher()
    spec = make_spec()
    launcher.launch(spec)
    _seen(launcher, spec, AttemptPhase.PENDING, "Insufficient nvidia.com/gpu")
    impatient = make_launcher({"clocks": {"node_s": 0.001}})
    outcome = _seen(impatient, spec, AttemptPhase.ENDED, "Insufficient nvidia.com/gpu").outcome
    assert outcome is not None
    assert outcome.code is Code.UNSCHEDULABLE
    node = namespace.add_node(gpus=8)
    namespace.start(namespace.bound_pod_of(spec.name))
    _seen(launcher, spec, AttemptPhase.RUNNING, node)


def test_a_pod_over_quota_waits_for_quota(
    make_launcher: MakeLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    namespace.add_node()
    quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "4"}}}
    namespace.api.do("POST", namespace.core("resourcequotas"), quota)
    until(
        lambda: namespace.api.do("GET", namespace.core("resourcequotas/gpus")).get("status", {}).get("hard"),
        "the quota",
    )
    launcher = make_launcher({"clocks": {"node_s": 0.001, "start_s": 0.001, "admission_s": 0.001}})
    spec = make_spec()
    launcher.launch(spec)

    # What is known only from events may be looked for every few seconds.
    def waits() -> bool:
        return launcher.observe()[spec.name].phase is AttemptPhase.WAITING_QUOTA

    patient = make_launcher()
    until(lambda: patient.observe()[spec.name].phase is AttemptPhase.WAITING_QUOTA, "waiting for quota")
    assert "exceeded quota" in patient.observe()[spec.name].detail
    until(waits, "waiting for quota whatever the other clocks say")


def test_a_refused_pod_is_an_admission_denied_when_it_lasts(
    make_launcher: MakeLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    # No account of that name: the Job is accepted, its pods are refused.
    launcher = make_launcher({"service_account": "absent", "clocks": {"admission_s": 1}})
    spec = make_spec()
    launcher.launch(spec)

    def ended() -> Observation | None:
        seen = launcher.observe()[spec.name]
        return seen if seen.phase is AttemptPhase.ENDED else None

    outcome = until(ended, "the end").outcome
    assert outcome is not None
    assert outcome.code is Code.ADMISSION_DENIED
    assert 'serviceaccount "absent" not found' in outcome.reason


def test_deployments_in_one_namespace_do_not_see_each_other(make_launcher: MakeLauncher, make_spec: MakeSpec) -> None:
    mine, theirs = make_launcher(redis_prefix="mine"), make_launcher(redis_prefix="theirs")
    mine.launch(make_spec(0))
    theirs.launch(make_spec(1))
    assert set(mine.observe()) == {make_spec(0).name}
    assert set(theirs.observe()) == {make_spec(1).name}


def test_a_list_that_takes_too_long_begins_anew(
    make_launcher: MakeLauncher, proxy: Proxy, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s.cluster.PAGE", 2)
    launcher = make_launcher(server=proxy.server)
    specs = [make_spec(index) for index in range(5)]
    for spec in specs:
        launcher.launch(spec)
    expired: list[str] = []

    def expire_once(_method: str, path: str) -> int | None:
        if "/jobs?" in path and "continue=" in path and not expired:
            expired.append(path)
            return 410
        return None

    proxy.fault = expire_once
    assert set(launcher.observe()) == {spec.name for spec in specs}
    assert expired


def test_a_node_whose_gpu_proved_bad_is_avoided(
    launcher: KubernetesLauncher, namespace: Namespace, make_spec: MakeSpec
) -> None:
    bad = namespace.add_node()
    launcher.launch(make_spec(number=1))
    report = PodReport(code=Code.GPU_UNHEALTHY, message="Xid 79", rank=3).to_message()
    namespace.end(namespace.bound_pod_of(make_spec(number=1).name), 1, report)
    _seen(launcher, make_spec(number=1), AttemptPhase.ENDED, "Xid 79")
    launcher.delete(make_spec(number=1).name)
    launcher.launch(make_spec(number=2))
    _seen(launcher, make_spec(number=2), AttemptPhase.PENDING, "0/")
    good = namespace.add_node()
    assert namespace.bound_pod_of(make_spec(number=2).name)["spec"]["nodeName"] == good != bad
