"""Every recorded moment of a real cluster, and its name; then the moments that a poller puts together itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from k8s.outcome import read
from k8s.pod import Clocks
from k8s.reading import Clock, Reading
from k8s.waits import with_live_pod
from pipeline.records.attempt import AttemptPhase, Code, PodReport

RECORDED = Path(__file__).parent / "recorded"

Seen = tuple[AttemptPhase, Code | None, Clock | None]


def _ended(code: Code) -> Seen:
    return AttemptPhase.ENDED, code, None


FOR_A_NODE: Seen = (AttemptPhase.PENDING, Code.UNSCHEDULABLE, Clock.NODE)
RUNNING: Seen = (AttemptPhase.RUNNING, None, None)
ENDING: Seen = (AttemptPhase.RUNNING, Code.NODE_LOST, Clock.NODE_LOST)

MOMENTS: dict[str, tuple[AttemptPhase, Code | None, Clock | None] | None] = {
    "command-not-found/1-pending": FOR_A_NODE,
    "command-not-found/2-final": _ended(Code.CONFIG_ERROR),
    "deleted-background/1-pending": FOR_A_NODE,
    "deleted-background/2-running": RUNNING,
    "deleted-background/3-terminating": ENDING,
    "deleted-background/4-final": None,
    "drained/1-pending": FOR_A_NODE,
    "drained/2-running": RUNNING,
    "drained/3-evicted": RUNNING,
    "drained/4-stopped": (AttemptPhase.PENDING, None, None),
    "drained/5-replaced": FOR_A_NODE,
    "drained/6-final": _ended(Code.SUCCEEDED),
    "drained-failjob/1-evicted": RUNNING,
    "drained-failjob/2-terminating": ENDING,
    "drained-failjob/3-stopped": _ended(Code.EVICTED),
    "drained-failjob/4-final": _ended(Code.EVICTED),
    "drained-failjob/5-long-after": _ended(Code.EVICTED),
    "failed-exit-1/1-pending": FOR_A_NODE,
    "failed-exit-1/2-running": RUNNING,
    "failed-exit-1/3-final": _ended(Code.ENGINE_ERROR),
    "failed-exit-64/1-pending": FOR_A_NODE,
    "failed-exit-64/2-running": RUNNING,
    "failed-exit-64/3-final": _ended(Code.CONFIG_ERROR),
    "failed-exit-64-failjob/1-final": _ended(Code.CONFIG_ERROR),
    "failed-exit-64-failjob/2-still-there": _ended(Code.CONFIG_ERROR),
    "failed-exit-64-failjob/3-long-after": _ended(Code.CONFIG_ERROR),
    "image-name-invalid/1-pending": FOR_A_NODE,
    "image-name-invalid/2-waiting": _ended(Code.CONFIG_ERROR),
    "image-never-pull/1-pending": FOR_A_NODE,
    "image-never-pull/2-waiting": (AttemptPhase.PENDING, Code.IMAGE_PULL, Clock.START),
    "image-pull-back-off/1-pending": FOR_A_NODE,
    "image-pull-back-off/2-first-error": (AttemptPhase.PENDING, Code.IMAGE_PULL, Clock.START),
    "image-pull-back-off/3-back-off": (AttemptPhase.PENDING, Code.IMAGE_PULL, Clock.START),
    "init-container-failed/1-pending": FOR_A_NODE,
    "init-container-failed/2-final": _ended(Code.STORAGE),
    "job-deadline/1-pending": FOR_A_NODE,
    "job-deadline/2-running": RUNNING,
    "job-deadline/3-deadline": ENDING,
    "job-deadline/4-final": _ended(Code.DEADLINE),
    "job-deadline-failjob/1-deadline": ENDING,
    "job-deadline-failjob/2-stopped": _ended(Code.DEADLINE),
    "job-deadline-failjob/3-final": _ended(Code.DEADLINE),
    "job-deadline-failjob/4-long-after": _ended(Code.DEADLINE),
    "node-lost/1-pending": FOR_A_NODE,
    "node-lost/2-running": RUNNING,
    "node-lost/3-node-not-ready": RUNNING,
    "node-lost/4-terminating": ENDING,
    "node-lost/5-still-terminating": ENDING,
    "node-lost/6-declared-out-of-service": FOR_A_NODE,
    "node-lost-and-back/1-pending": FOR_A_NODE,
    "node-lost-and-back/2-running": RUNNING,
    "node-lost-and-back/3-terminating": ENDING,
    "node-lost-and-back/4-stopped": (AttemptPhase.PENDING, None, None),
    "node-lost-and-back/5-replaced": RUNNING,
    "node-lost-and-back-failjob/1-still-terminating": ENDING,
    "node-lost-and-back-failjob/2-stopped": _ended(Code.NODE_LOST),
    "node-lost-and-back-failjob/3-final": _ended(Code.NODE_LOST),
    "node-lost-and-back-failjob/4-long-after": _ended(Code.NODE_LOST),
    "node-lost-failjob/1-node-not-ready": RUNNING,
    "node-lost-failjob/2-terminating": ENDING,
    "node-lost-failjob/3-still-terminating": ENDING,
    "node-lost-failjob/4-declared-out-of-service": _ended(Code.NODE_LOST),
    "node-lost-failjob/5-final": _ended(Code.NODE_LOST),
    "node-lost-failjob/6-long-after": _ended(Code.NODE_LOST),
    "oom-killed/1-pending": FOR_A_NODE,
    "oom-killed/2-running": RUNNING,
    "oom-killed/3-final": _ended(Code.OOM_KILLED),
    "oom-killed-failjob/1-final": _ended(Code.OOM_KILLED),
    "oom-killed-failjob/2-marked-later": _ended(Code.OOM_KILLED),
    "oom-killed-failjob/3-long-after": _ended(Code.UNKNOWN),
    "pod-deadline/1-pending": FOR_A_NODE,
    "pod-deadline/2-running": RUNNING,
    "pod-deadline/3-final": _ended(Code.DEADLINE),
    "pod-deadline-failjob/1-stopped": _ended(Code.DEADLINE),
    "pod-deadline-failjob/2-final": _ended(Code.DEADLINE),
    "pod-deadline-failjob/3-long-after": _ended(Code.DEADLINE),
    "pod-deleted/1-pending": FOR_A_NODE,
    "pod-deleted/2-running": RUNNING,
    "pod-deleted/3-terminating": ENDING,
    "pod-deleted/4-final": _ended(Code.DELETED),
    "pod-deleted-failjob/1-terminating": ENDING,
    "pod-deleted-failjob/2-stopped": _ended(Code.DELETED),
    "pod-deleted-failjob/3-final": _ended(Code.DELETED),
    "pod-deleted-failjob/4-long-after": _ended(Code.DELETED),
    "pod-security/1-created": (AttemptPhase.PENDING, Code.UNKNOWN, Clock.NODE),
    "pod-security/2-refused": (AttemptPhase.PENDING, Code.ADMISSION_DENIED, Clock.ADMISSION),
    "preempted/1-pending": FOR_A_NODE,
    "preempted/2-running": RUNNING,
    "preempted/3-preempted": RUNNING,
    "preempted/4-stopped": (AttemptPhase.PENDING, None, None),
    "preempted/5-replaced": FOR_A_NODE,
    "preempted/6-final": _ended(Code.SUCCEEDED),
    "preempted-failjob/1-running": RUNNING,
    "preempted-failjob/2-preempted": RUNNING,
    "preempted-failjob/3-terminating": ENDING,
    "preempted-failjob/4-stopped": _ended(Code.PREEMPTED),
    "preempted-failjob/5-failure-target": _ended(Code.PREEMPTED),
    "preempted-failjob/6-final": _ended(Code.PREEMPTED),
    "preempted-failjob/7-long-after": _ended(Code.PREEMPTED),
    "pvc-missing/1-pending": (AttemptPhase.PENDING, Code.STORAGE, Clock.START),
    "pvc-unbound/1-pending": (AttemptPhase.PENDING, Code.STORAGE, Clock.START),
    "quota-exceeded/1-created": (AttemptPhase.PENDING, Code.UNKNOWN, Clock.NODE),
    "quota-exceeded/2-refused": (AttemptPhase.WAITING_QUOTA, Code.QUOTA, Clock.QUOTA),
    "secret-missing/1-pending": FOR_A_NODE,
    "secret-missing/2-waiting": (AttemptPhase.PENDING, Code.CONFIG_ERROR, Clock.START),
    "secret-missing/3-after-secret-was-made": _ended(Code.SUCCEEDED),
    "succeeded/1-pending": FOR_A_NODE,
    "succeeded/2-running": RUNNING,
    "succeeded/3-final": _ended(Code.SUCCEEDED),
    "suspended/1-suspended": (AttemptPhase.WAITING_QUOTA, Code.QUOTA, Clock.QUOTA),
    "suspended/2-resumed": FOR_A_NODE,
    "suspended/3-running": RUNNING,
    "suspended/4-suspended-while-running": ENDING,
    "suspended/5-suspended-again": (AttemptPhase.WAITING_QUOTA, Code.QUOTA, Clock.QUOTA),
    "suspended/6-final": _ended(Code.SUCCEEDED),
    "unschedulable/1-pending": FOR_A_NODE,
    "unschedulable/2-running": RUNNING,
    "unschedulable/3-final": _ended(Code.SUCCEEDED),
    "volume-over-limit/1-pending": FOR_A_NODE,
    "volume-over-limit/2-running": RUNNING,
    "volume-over-limit/3-final": _ended(Code.STORAGE),
    "volume-secret-missing/1-pending": FOR_A_NODE,
    "volume-secret-missing/2-waiting": (AttemptPhase.PENDING, Code.CONFIG_ERROR, Clock.START),
}

# What remains of an end when the events have expired too, where that is less.
WITHOUT_EVENTS = {
    "node-lost-and-back-failjob/4-long-after": Code.EVICTED,
    "node-lost-failjob/5-final": Code.EVICTED,
    "node-lost-failjob/6-long-after": Code.EVICTED,
    "preempted-failjob/6-final": Code.EVICTED,
    "preempted-failjob/7-long-after": Code.EVICTED,
    "pod-deadline-failjob/3-long-after": Code.UNKNOWN,
    "pod-deleted/4-final": Code.UNKNOWN,
    "pod-deleted-failjob/4-long-after": Code.UNKNOWN,
}

FAILJOB = sorted(folder.name for folder in RECORDED.glob("*-failjob"))


def _moments(folder: str) -> list[str]:
    return [f"{folder}/{path.name}" for path in sorted((RECORDED / folder).iterdir()) if path.is_dir()]


def _job(moment: str) -> dict[str, Any] | None:
    found: dict[str, Any] = json.loads((RECORDED / moment / "job.json").read_text())
    return found if found["kind"] == "Job" else None


def _items(moment: str, kind: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads((RECORDED / moment / f"{kind}.json").read_text())["items"]
    return items


def _read(moment: str, *, events: bool = True) -> Reading | None:
    return read(_job(moment), _items(moment, "pods"), _items(moment, "events") if events else [])


def _pod(moment: str, **status: Any) -> dict[str, Any]:
    (pod,) = copy.deepcopy(_items(moment, "pods"))
    pod["status"] |= status
    return pod


def _terminated(moment: str, **end: Any) -> dict[str, Any]:
    pod = _pod(moment)
    pod["status"]["containerStatuses"][0]["state"]["terminated"] |= end
    return pod


def test_the_table_holds_every_recorded_moment() -> None:
    recorded = {f"{path.parent.parent.name}/{path.parent.name}" for path in RECORDED.glob("*/*/job.json")}
    assert recorded == MOMENTS.keys()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_recorded_moment_is_called_what_it_is(moment: str) -> None:
    reading = _read(moment)
    assert (None if reading is None else (reading.phase, reading.code, reading.clock)) == MOMENTS[moment]


@pytest.mark.parametrize(
    "moment", [moment for moment, seen in MOMENTS.items() if seen and seen[0] is AttemptPhase.ENDED]
)
def test_an_end_is_an_end_without_events_too(moment: str) -> None:
    reading = _read(moment, events=False)
    seen = MOMENTS[moment]
    assert reading is not None
    assert seen is not None
    assert reading.phase is AttemptPhase.ENDED
    assert reading.code is WITHOUT_EVENTS.get(moment, seen[1])


@pytest.mark.parametrize("folder", FAILJOB)
def test_a_job_listed_after_its_pods_is_never_taken_for_one_that_waits(folder: str) -> None:
    """Two requests show pods of one moment and the Job of a later one; that must not read as a new beginning."""
    moments = _moments(folder)
    codes = {reading.code for moment in moments if (reading := _read(moment)) and reading.phase is AttemptPhase.ENDED}
    codes |= {WITHOUT_EVENTS[moment] for moment in moments if moment in WITHOUT_EVENTS}
    ended = False
    for i, pods_at in enumerate(moments):
        for job_at in moments[i:]:
            reading = read(_job(job_at), _items(pods_at, "pods"), [])
            assert reading is not None
            if reading.phase is AttemptPhase.ENDED:
                ended = True
                assert reading.code in codes
            else:
                assert reading.phase is AttemptPhase.RUNNING
    assert ended


@pytest.mark.parametrize("folder", FAILJOB)
def test_an_end_stays_an_end(folder: str) -> None:
    phases = [reading.phase for moment in _moments(folder) if (reading := _read(moment))]
    assert phases == sorted(phases, key=[AttemptPhase.RUNNING, AttemptPhase.ENDED].index)


@pytest.mark.parametrize(
    ("moment", "clock", "code"),
    [
        ("image-pull-back-off/3-back-off", "start_s", Code.IMAGE_PULL),
        ("secret-missing/2-waiting", "start_s", Code.CONFIG_ERROR),
        ("pvc-unbound/1-pending", "start_s", Code.STORAGE),
        ("unschedulable/1-pending", "node_s", Code.UNSCHEDULABLE),
        ("quota-exceeded/2-refused", "quota_s", Code.QUOTA),
        ("suspended/1-suspended", "quota_s", Code.QUOTA),
        ("pod-security/2-refused", "admission_s", Code.ADMISSION_DENIED),
        ("node-lost-failjob/3-still-terminating", "node_lost_s", Code.NODE_LOST),
        ("deleted-background/3-terminating", "node_lost_s", Code.NODE_LOST),
    ],
)
def test_a_wait_ends_when_its_own_clock_has_run_out(moment: str, clock: str, code: Code) -> None:
    reading = _read(moment)
    assert reading is not None
    assert reading.since is not None
    # Every other clock has run out long ago.
    clocks = Clocks(quota_s=0.001, node_s=0.001, start_s=0, admission_s=0, node_lost_s=0).model_copy(update={clock: 60})
    assert reading.at(reading.since + timedelta(seconds=59), clocks) == reading
    ended = reading.at(reading.since + timedelta(seconds=61), clocks)
    assert (ended.phase, ended.code) == (AttemptPhase.ENDED, code)
    assert ended.reason.startswith(reading.reason)


def test_waiting_for_quota_has_no_limit_by_default() -> None:
    reading = _read("quota-exceeded/2-refused")
    assert reading is not None
    assert reading.at(datetime(2100, 1, 1, tzinfo=UTC), Clocks()) == reading


def test_a_pod_that_a_queue_holds_back_waits_for_quota() -> None:
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "held back"}
    pod = {"metadata": {}, "spec": {}, "status": {"phase": "Pending", "conditions": [gated]}}
    seen = with_live_pod({"metadata": {}}, pod, [])
    assert (seen.phase, seen.code, seen.clock) == (AttemptPhase.WAITING_QUOTA, Code.QUOTA, Clock.QUOTA)


def test_a_running_pod_has_no_clock_of_ours() -> None:
    reading = _read("succeeded/2-running")
    assert reading is not None
    assert reading.at(datetime(2100, 1, 1, tzinfo=UTC), Clocks()) == reading


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("image-pull-back-off/3-back-off", "no such host"),
        ("unschedulable/1-pending", "Insufficient nvidia.com/gpu"),
        ("quota-exceeded/2-refused", "requests.nvidia.com/gpu=8"),
        ("pod-security/2-refused", 'violates PodSecurity "restricted:latest"'),
        ("volume-secret-missing/2-waiting", 'secret "absent" not found'),
        ("failed-exit-1/3-final", "CUDA out of memory"),
        ("init-container-failed/2-final", "checksum differs"),
        ("command-not-found/2-final", "no such file or directory"),
        ("volume-over-limit/3-final", 'volume "scratch" exceeds the limit'),
        ("pod-deadline-failjob/3-long-after", "longer than the specified deadline"),
    ],
)
def test_the_reason_is_the_clusters_own_words(moment: str, words: str) -> None:
    reading = _read(moment)
    assert reading is not None
    assert words in reading.reason


def test_an_older_kubelets_back_off_gets_the_registrys_words_from_the_event() -> None:
    moment = "image-pull-back-off/3-back-off"
    pod = _pod(moment)
    waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"]
    waiting["message"] = 'Back-off pulling image "registry.example/absent:1"'
    reading = read(_job(moment), [pod], _items(moment, "events"))
    assert reading is not None
    assert "no such host" in reading.reason


_OK = PodReport(code=Code.SUCCEEDED, committed=5).to_message()
_BAD = PodReport(code=Code.GPU_UNHEALTHY, message="Xid 79 on rank 3", rank=3).to_message()
_TORCHRUN = "  exitcode  : -9 (pid: 77)\n  traceback : Signal 9 (SIGKILL) received by PID 77"


@pytest.mark.parametrize(
    ("moment", "end", "code"),
    [
        ("succeeded/3-final", {"message": _OK}, Code.SUCCEEDED),
        ("succeeded/3-final", {"message": _BAD}, Code.GPU_UNHEALTHY),
        ("failed-exit-1/3-final", {"message": _BAD}, Code.GPU_UNHEALTHY),
        ("failed-exit-1/3-final", {"message": _OK}, Code.UNKNOWN),
        ("failed-exit-1/3-final", {"message": ""}, Code.UNKNOWN),
        ("failed-exit-1/3-final", {"message": _TORCHRUN}, Code.KILLED),
        ("failed-exit-1/3-final", {"exitCode": 137, "message": None}, Code.KILLED),
        ("failed-exit-1/3-final", {"exitCode": 78, "message": "no such model"}, Code.CONFIG_ERROR),
        ("oom-killed/3-final", {"message": _BAD}, Code.OOM_KILLED),
        ("pod-deadline/3-final", {"message": _BAD}, Code.DEADLINE),
        ("drained-failjob/3-stopped", {"message": _BAD}, Code.EVICTED),
        ("pod-deleted-failjob/3-final", {"message": _BAD}, Code.DELETED),
    ],
)
def test_the_program_speaks_unless_the_cluster_ended_it(moment: str, end: dict[str, Any], code: Code) -> None:
    reading = read(_job(moment), [_terminated(moment, **end)], _items(moment, "events"))
    assert reading is not None
    assert reading.outcome is not None
    assert reading.outcome.code is code
    if end.get("message") == _BAD:
        assert reading.outcome.report is not None
        assert reading.outcome.report.rank == 3


def test_a_program_that_exits_0_when_evicted_has_not_succeeded() -> None:
    pod = _pod("succeeded/3-final")
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "m"}
    pod["status"]["conditions"].append(disrupted)
    reading = read(_job("succeeded/3-final"), [pod], [])
    assert reading is not None
    assert reading.code is Code.PREEMPTED
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = _OK
    reading = read(_job("succeeded/3-final"), [pod], [])
    assert reading is not None
    assert reading.code is Code.SUCCEEDED


@pytest.mark.parametrize(
    ("reason", "message", "code"),
    [
        ("UnexpectedAdmissionError", "Allocate failed: devices unavailable for nvidia.com/gpu", Code.GPU_UNHEALTHY),
        ("OutOfnvidia.com/gpu", "Node didn't have enough resource: nvidia.com/gpu", Code.EVICTED),
        ("NodeShutdown", "Pod was rejected: node is shutting down", Code.EVICTED),
        ("Preempting", "Preempted in order to admit critical pod", Code.PREEMPTED),
        ("NodeLost", "", Code.NODE_LOST),
        ("NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed", Code.EVICTED),
        ("TaintToleration", "Pod was rejected: Predicate TaintToleration failed", Code.EVICTED),
        ("TopologyAffinityError", "Pod was rejected: Resources cannot be allocated", Code.EVICTED),
        ("SomethingNew", "never heard of", Code.UNKNOWN),
    ],
)
def test_a_pod_that_a_kubelet_refused(reason: str, message: str, code: Code) -> None:
    pod = _pod("failed-exit-1/3-final", reason=reason, message=message, containerStatuses=[])
    reading = read(_job("failed-exit-1/3-final"), [pod], [])
    assert reading is not None
    assert reading.code is code
    assert reading.node == "gpu-node-1"


def test_a_pod_that_was_made_in_place_of_one_that_still_ends_does_not_hide_it() -> None:
    """An older cluster, or somebody else's policy, may start a second pod before the first one is gone."""
    moment = "node-lost-failjob/3-still-terminating"
    newer = _pod("unschedulable/1-pending")
    newer["metadata"]["creationTimestamp"] = "2026-11-23T00:00:00Z"
    reading = read(_job(moment), [newer, *_items(moment, "pods")], [])
    assert reading is not None
    assert (reading.phase, reading.code) == (AttemptPhase.RUNNING, Code.NODE_LOST)


def test_a_pod_of_which_nothing_is_known_may_run() -> None:
    reading = read(_job("succeeded/2-running"), [_pod("succeeded/2-running", phase="Unknown")], [])
    assert reading is not None
    assert (reading.phase, reading.clock) == (AttemptPhase.RUNNING, None)
    assert "does not answer" in reading.reason


def test_a_pod_without_a_job_is_seen_until_it_is_over() -> None:
    orphan = _pod("succeeded/2-running")
    reading = read(None, [orphan], [])
    assert reading is not None
    assert reading.phase is AttemptPhase.RUNNING
    # Nobody asked it to end, so no clock says that its node is lost.
    assert reading.at(datetime(2100, 1, 1, tzinfo=UTC), Clocks()) == reading


def test_a_job_of_a_pod_that_is_no_more_and_no_word_of_anybody_is_unknown_never_done() -> None:
    job = _job("oom-killed-failjob/3-long-after")
    reading = read(job, [], [])
    assert reading is not None
    assert reading.outcome is not None
    assert reading.outcome.code is Code.UNKNOWN
    assert "BackoffLimitExceeded" in reading.outcome.reason


def test_credentials_in_the_clusters_words_are_not_handed_on() -> None:
    message = 'Head "https://robot:hunter2@registry.example/v2/": denied'
    pod = _terminated("failed-exit-1/3-final", message=message)
    reading = read(_job("failed-exit-1/3-final"), [pod], [])
    assert reading is not None
    assert reading.outcome is not None
    assert "hunter2" not in reading.outcome.reason
    assert "registry.example" in reading.outcome.reason


def _end(name: str, code: int, finished: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "state": {"terminated": {"exitCode": code, "finishedAt": finished, **more}}}


def _pod_of(
    *containers: dict[str, Any], phase: str = "Failed", init: tuple[dict[str, Any], ...] = ()
) -> dict[str, Any]:
    statuses = {"initContainerStatuses": list(init), "containerStatuses": list(containers)}
    return _pod("failed-exit-1/3-final", phase=phase, **statuses)


@pytest.mark.parametrize(
    ("pod", "code", "exit_code"),
    [
        # A sidecar of the template that ends badly makes the pod Failed, and the render no less done ...
        (_pod_of(_end("render", 0, "T1", message=_OK), _end("proxy", 137, "T2", reason="Error")), Code.SUCCEEDED, 137),
        # ... and says nothing about one that failed, whatever the order in which they are listed.
        (_pod_of(_end("proxy", 143, "T2"), _end("render", 137, "T1", reason="OOMKilled")), Code.OOM_KILLED, 137),
        (_pod_of(_end("proxy", 143, "T2"), _end("render", 1, "T1", message=_BAD)), Code.GPU_UNHEALTHY, 1),
        (_pod_of(_end("proxy", 137, "T1", reason="OOMKilled"), _end("render", 1, "T2", message=_BAD)),
         Code.GPU_UNHEALTHY, 1),
        # A sidecar among the init containers is ended by the kubelet, after the render.
        (_pod_of(_end("render", 78, "T1"), init=(_end("mesh", 137, "T2"),)), Code.CONFIG_ERROR, 78),
        (_pod_of(_end("render", 0, "T1"), init=(_end("mesh", 137, "T2"),), phase="Succeeded"), Code.SUCCEEDED, 137),
        # Nothing else starts when an init container fails.
        (
            _pod_of({"name": "render", "state": {"waiting": {"reason": "PodInitializing"}}},
                    init=(_end("setup", 1, "T1", message="no licence"),)),
            Code.ENGINE_ERROR, 1,
        ),
        (_pod_of(init=(_end("fetch-weights", 137, "T1", reason="OOMKilled"),)), Code.OOM_KILLED, 137),
        (_pod_of(init=(_end("fetch-weights", 0, "T0"), _end("setup", 64, "T1"))), Code.CONFIG_ERROR, 64),
        # What the container toolkit says of a GPU that is gone.
        (
            _pod_of(_end("render", 128, "T1", reason="StartError", message="nvidia-container-cli: device error: 3")),
            Code.GPU_UNHEALTHY, 128,
        ),
        (
            _pod_of(_end("render", 128, "T1", reason="StartError", message="unresolvable CDI devices gpu=3")),
            Code.GPU_UNHEALTHY, 128,
        ),
        (_pod_of({"name": "render", "state": {}}), Code.UNKNOWN, None),
        (_pod_of({"name": "render"}), Code.UNKNOWN, None),
        (_pod_of(_end("render", 143, "T1")), Code.UNKNOWN, 143),
    ],
)  # fmt: skip
def test_the_container_that_counts_speaks(pod: dict[str, Any], code: Code, exit_code: int | None) -> None:
    reading = read(_job("failed-exit-1/3-final"), [pod], [])
    assert reading is not None
    assert (reading.phase, reading.code, reading.exit_code) == (AttemptPhase.ENDED, code, exit_code)


_GOES_ON = {"name": "proxy", "state": {"running": {"startedAt": "T0"}}}


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (_end("render", 0, "T1", message=_OK), Code.SUCCEEDED),
        (_end("render", 0, "T1"), Code.SUCCEEDED),
        (_end("render", 1, "T1", message=_BAD), Code.GPU_UNHEALTHY),
        (_end("render", 137, "T1", reason="OOMKilled"), Code.OOM_KILLED),
    ],
)
def test_an_attempt_ends_with_its_render_and_does_not_wait_for_a_sidecar(end: dict[str, Any], code: Code) -> None:
    pod = _pod_of(end, _GOES_ON, phase="Running")
    reading = read(_job("succeeded/2-running"), [pod], [])
    assert reading is not None
    assert (reading.phase, reading.code) == (AttemptPhase.ENDED, code)


@pytest.mark.parametrize(
    "pod",
    [
        _pod_of({"name": "render", "state": {"running": {}}}, _end("proxy", 1, "T1"), phase="Running"),
        # A kubelet has more to say: of the pod, or of a sidecar that it ends by itself.
        _pod_of(_end("render", 1, "T1"), phase="Running"),
        _pod_of(_end("render", 1, "T1"), init=(_GOES_ON,), phase="Running"),
    ],
)
def test_an_attempt_whose_pod_ends_by_itself_runs_until_then(pod: dict[str, Any]) -> None:
    reading = read(_job("succeeded/2-running"), [pod], [])
    assert reading is not None
    assert reading.phase is AttemptPhase.RUNNING


def test_a_container_that_was_added_is_named_with_what_it_says() -> None:
    reading = read(None, [_pod_of(init=(_end("istio-init", 255, "T1", message="iptables-restore failed"),))], [])
    assert reading is not None
    assert reading.reason == "container istio-init ended with exit code 255: iptables-restore failed"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("The node was low on resource: memory. Threshold quantity: 100Mi, available: 92Mi.", Code.EVICTED),
        ("The node had condition: [DiskPressure]. ", Code.EVICTED),
        ("Pod ephemeral local storage usage exceeds the total limit of containers 20Gi. ", Code.STORAGE),
        ('Usage of EmptyDir volume "scratch" exceeds the limit "20Gi". ', Code.STORAGE),
    ],
)
def test_an_eviction_is_the_nodes_or_the_pods_own(message: str, code: Code) -> None:
    job = _job("failed-exit-1/3-final")
    pod = _pod("failed-exit-1/3-final", reason="Evicted", message=message, containerStatuses=None)
    event = {"involvedObject": {"kind": "Pod"}, "reason": "Evicted", "message": message}
    for reading in (read(job, [pod], []), read(job, [], [event])):
        assert reading is not None
        assert reading.code is code
        assert message.strip() in reading.reason


def test_a_pod_that_was_marked_as_disrupted_after_its_end_has_the_end_that_it_had() -> None:
    moment = "oom-killed-failjob/2-marked-later"
    for job in (None, {**(_job(moment) or {}), "status": {}}):
        reading = read(job, _items(moment, "pods"), _items(moment, "events"))
        assert reading is not None
        assert reading.code is Code.OOM_KILLED


@pytest.mark.parametrize(
    ("reason", "message", "code"),
    [
        ("CreateContainerError", "failed to inject CDI devices: unresolvable CDI devices", Code.GPU_UNHEALTHY),
        ("RunContainerError", "nvidia-container-cli: detection error: nvml error", Code.GPU_UNHEALTHY),
        ("RunContainerError", "exec format error", Code.CONFIG_ERROR),
        ("CrashLoopBackOff", "back-off 5m0s restarting failed container=mesh", Code.CONFIG_ERROR),
        ("ErrImagePull", "401 Unauthorized", Code.IMAGE_PULL),
        ("ContainerCreating", "", Code.UNKNOWN),
    ],
)
def test_what_keeps_a_container_from_starting(reason: str, message: str, code: Code) -> None:
    waiting = {"reason": reason} | ({"message": message} if message else {})
    for kind in ("initContainerStatuses", "containerStatuses"):
        pod = _pod("secret-missing/2-waiting", initContainerStatuses=None, containerStatuses=None)
        pod["status"][kind] = [{"name": "any", "state": {"waiting": waiting}}]
        reading = read(_job("secret-missing/2-waiting"), [pod], [])
        assert reading is not None
        assert (reading.phase, reading.code) == (AttemptPhase.PENDING, code)
        assert message in reading.reason


def _event_of(reason: str, minute: int, message: str = "") -> dict[str, Any]:
    about = {"kind": "Pod", "name": _pod("secret-missing/2-waiting")["metadata"]["name"]}
    at = f"2026-11-22T10:{minute:02d}:00Z"
    return {"involvedObject": about, "reason": reason, "message": message, "firstTimestamp": at, "lastTimestamp": at}


@pytest.mark.parametrize(
    ("failure", "code"),
    [("FailedMount", Code.STORAGE), ("FailedAttachVolume", Code.STORAGE), ("FailedCreatePodSandBox", Code.UNKNOWN)],
)
def test_a_failure_of_a_new_node_is_over_once_the_image_is_pulled(failure: str, code: Code) -> None:
    """The pull of a large image takes longer than volumes, or the network of a node, may be missing."""
    pod = _pod("secret-missing/2-waiting", containerStatuses=[{"name": "render", "state": {"waiting": {}}}])
    job = _job("secret-missing/2-waiting")
    failed, pulling, again = (
        _event_of(failure, 0, "not yet"),
        _event_of("Pulling", 1),
        _event_of(failure, 2, "gone again"),
    )
    for events, clock, said in (
        ([failed], Clock.START, "not yet"),
        ([failed, pulling], Clock.NODE, "starts on"),
        ([failed, pulling, again], Clock.START, "gone again"),
    ):
        reading = read(job, [pod], events)
        assert reading is not None
        assert (reading.phase, reading.clock) == (AttemptPhase.PENDING, clock)
        assert reading.reason.startswith(said)
        assert reading.code is (code if clock is Clock.START else Code.UNKNOWN)


def test_a_policy_failure_in_other_words_is_a_disruption_unless_it_names_an_exit_code() -> None:
    job = _job("preempted-failjob/7-long-after")
    assert job is not None
    for one in job["status"]["conditions"]:
        one["message"] = "rule 0 matched"
    reading = read(job, [], _items("preempted-failjob/7-long-after", "events"))
    assert reading is not None
    assert reading.code is Code.PREEMPTED


Where = tuple[str | int, ...]


def _paths(found: Any, path: Where = ()) -> Iterator[Where]:
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in items:
        if isinstance(found, dict):
            yield (*path, key)
        yield from _paths(value, (*path, key))


def _without(found: Any, path: Where, *, null: bool) -> Any:
    changed = copy.deepcopy(found)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if null:
        holder[path[-1]] = None
    else:
        del holder[path[-1]]
    return changed


@pytest.mark.parametrize("moment", MOMENTS)
def test_whatever_a_field_lacks_a_look_is_a_look_and_never_a_success(moment: str) -> None:
    """Each field of Job, pod and events once absent and once null, what the pod's spec holds apart."""
    whole = _read(moment)
    good = {Code.SUCCEEDED} if whole is not None and whole.code is Code.SUCCEEDED else set()
    found = {"job": _job(moment), "pods": _items(moment, "pods"), "events": _items(moment, "events")}
    for kind, objects in found.items():
        for path in _paths(objects):
            if "template" in path or (kind == "pods" and "spec" in path[:-1]):
                continue
            for null in (True, False):
                changed = found | {kind: _without(objects, path, null=null)}
                reading = read(changed["job"], changed["pods"], changed["events"])
                if reading is not None and reading.outcome is not None:
                    assert reading.outcome.code not in {Code.SUCCEEDED} - good, (kind, path)


def _conditions(pod: Any, **changes: dict[str, Any]) -> Any:
    """The pod with these conditions in place of its own of that type."""
    told = [one for one in pod["status"]["conditions"] if one["type"] not in changes]
    pod["status"]["conditions"] = told + [{"type": kind, **values} for kind, values in changes.items()]
    return pod


@pytest.mark.parametrize(
    ("conditions", "silent"),
    [
        # as the node controller leaves it
        ({"Ready": {"status": "False"}, "ContainersReady": {"status": "True"}}, True),
        # as a kubelet does, when a container has ended, is not ready yet, or a gate is not met
        *(
            ({"Ready": {"status": "False", "reason": reason}, "ContainersReady": {"status": of_containers}}, False)
            for reason, of_containers in (
                ("ContainersNotReady", "False"),
                ("PodCompleted", "False"),
                ("PodFailed", "False"),
                ("ReadinessGatesNotReady", "True"),
            )
        ),
        ({"Ready": {"status": "True"}, "ContainersReady": {"status": "True"}}, False),
    ],
)
def test_a_node_is_silent_if_the_cluster_says_so_and_not_when_a_container_has_ended(
    conditions: dict[str, dict[str, Any]], silent: bool
) -> None:
    reading = with_live_pod(_job("succeeded/2-running"), _conditions(_pod("succeeded/2-running"), **conditions), [])
    assert reading.reason == (f"node {reading.node} does not answer" if silent else f"runs on {reading.node}")
