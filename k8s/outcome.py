"""What became of one attempt, from its Job, its pod and the events about both. Makes no request.

An attempt has not ended while a pod of it may run. How it ended is decided in this order: the program's own report of
success; the Job's reason, which outlives the pod and distinguishes disruption from failure; the pod's reason; and last
the render's container if it failed, else the first other one that did.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from k8s.job_manifest import CONTAINER, WEIGHTS_CONTAINER
from k8s.reading import (
    NO_DEVICE,
    Object,
    Reading,
    condition,
    containers,
    deleted_at,
    ends,
    event,
    is_over,
    metadata,
    spec,
    status,
)
from k8s.waits import with_live_pod, without_pod
from pipeline.records.attempt import HOPELESS_EXIT_CODES, RANK_KILLED, AttemptPhase, Code, PodReport

_DISRUPTIONS = {
    "PreemptionByScheduler": Code.PREEMPTED,
    "PreemptionByKubeScheduler": Code.PREEMPTED,
    "EvictionByEvictionAPI": Code.EVICTED,
    "TerminationByKubelet": Code.EVICTED,
    "DeletionByTaintManager": Code.NODE_LOST,
    "DeletionByPodGC": Code.NODE_LOST,
}

# Why a kubelet failed a pod, where the reason is in the pod's status and not in a container's.
_POD_REASONS = {
    "DeadlineExceeded": Code.DEADLINE,
    "NodeLost": Code.NODE_LOST,
    "Preempting": Code.PREEMPTED,
    "Shutdown": Code.EVICTED,
    "NodeShutdown": Code.EVICTED,
    "Terminated": Code.EVICTED,
}

_CONTAINER_REASONS = {
    "OOMKilled": Code.OOM_KILLED,
    "StartError": Code.CONFIG_ERROR,
    "ContainerCannotRun": Code.CONFIG_ERROR,
    "ContainerStatusUnknown": Code.NODE_LOST,
}

_SIGKILL_EXIT = 137
# Why a kubelet takes no pod that was scheduled onto its node: another node, or this one later, may.
_NOT_TAKEN = re.compile(
    r"OutOf\w|(NodeAffinity|NodeName|NodePorts|TaintToleration|TopologyAffinityError|SMTAlignmentError|InvalidNodeInfo)$"
)
# Older kubelets, and those without the feature gate, do not mark such a pod as disrupted.
_NODE_SHORT = re.compile(r"node was low on resource|node had condition", re.IGNORECASE)
_NO_DEVICES = re.compile(r"gpu|devices? (is |are )?unavailable", re.IGNORECASE)
_EXIT_CODE = re.compile(r"failed with exit code (\d+)")


def read(job: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Reading | None:
    """What the cluster says about an attempt; None if nothing of it exists.

    Args:
        job: the Job, or None if it is gone.
        pods: the pods of that Job; our policy allows one.
        events: those about the Job and its pods; any of them may be missing.
    """
    in_order = sorted(pods, key=lambda one: metadata(one).get("creationTimestamp") or "")
    live = [pod for pod in in_order if not is_over(pod)]
    if live:
        oldest = live[0]  # a later one cannot get its claim
        if _is_over_but_for_sidecars(oldest):
            return _of_pod(oldest, job, events, disruption_counts=True)
        return with_live_pod(job, oldest, events)
    pod = in_order[-1] if in_order else None
    if job is None:
        return None if pod is None else _of_pod(pod, None, events, disruption_counts=True)
    if failed := condition(job, "Failed", "FailureTarget"):
        return _of_failed_job(failed, pod, events)
    if condition(job, "Complete", "SuccessCriteriaMet"):
        if pod is None:
            return Reading(AttemptPhase.ENDED, "the Job is complete, and its pod is gone", Code.SUCCEEDED)
        return _of_pod(pod, job, events, disruption_counts=True)
    if pod is None:
        return without_pod(job, events)
    if deleted_at(pod) is not None and spec(job).get("suspend"):
        return without_pod(job, events)
    if condition(pod, "DisruptionTarget") and _replaces_disrupted(job):
        return Reading(AttemptPhase.PENDING, "was disrupted; its Job starts another pod")
    return _of_pod(pod, job, events, disruption_counts=True)


def _is_over_but_for_sidecars(pod: Object) -> bool:
    """Whether the render has ended in a pod that nobody ends, for a container that was added to it goes on.

    One among the init containers does not count: a kubelet ends it after the others.
    """
    others = [one for one in status(pod).get("containerStatuses") or () if one and one.get("name") != CONTAINER]
    goes_on = any((one.get("state") or {}).get("running") for one in others)
    return goes_on and any(name == CONTAINER for name, _ in ends(pod)) and deleted_at(pod) is None


def _replaces_disrupted(job: Object) -> bool:
    """Whether the Job has an older policy, by which it does not end with its pod."""
    rules = (spec(job).get("podFailurePolicy") or {}).get("rules") or ()
    return any(
        rule.get("action") == "Ignore"
        and any(one.get("type") == "DisruptionTarget" for one in rule.get("onPodConditions") or ())
        for rule in rules
    )


def _of_failed_job(failed: Object, pod: Object | None, events: Sequence[Object]) -> Reading:
    reason, message = failed.get("reason"), failed.get("message") or ""
    by_exit_code = _EXIT_CODE.search(message) if reason == "PodFailurePolicy" else None
    if reason == "PodFailurePolicy" and by_exit_code is None:  # the other of our two rules
        return _disrupted(pod, events, message)
    if reason == "DeadlineExceeded":
        return _ended(Code.DEADLINE, message, pod)
    if pod is not None:
        # A pod that had ended may be marked as disrupted later; the Job's reason is right.
        return _of_pod(pod, None, events, disruption_counts=False)
    if by_exit_code:
        return Reading(AttemptPhase.ENDED, message, Code.CONFIG_ERROR, exit_code=int(by_exit_code[1]))
    for kinds, code in (
        (("DeadlineExceeded",), Code.DEADLINE),
        (("Evicted",), None),
        (("Killing",), Code.DELETED),
    ):
        if last := event(events, "Pod", kinds):
            text = last.get("message") or ""
            return Reading(AttemptPhase.ENDED, f"the pod is gone: {text}", code or _evicted(text))
    return Reading(AttemptPhase.ENDED, f"the pod is gone, and the Job says only {reason}: {message}", Code.UNKNOWN)


def _disrupted(pod: Object | None, events: Sequence[Object], message: str) -> Reading:
    target = condition(pod, "DisruptionTarget") if pod is not None else None
    if target is not None:
        code = _DISRUPTIONS.get(str(target.get("reason")), Code.EVICTED)
        return _ended(code, f"{target.get('reason')}: {target.get('message')}", pod)
    # The Job does not say which disruption it was. For an hour events may; a drain leaves none.
    for kinds, code in ((("Preempted",), Code.PREEMPTED), (("TaintManagerEviction", "NodeNotReady"), Code.NODE_LOST)):
        if last := event(events, "Pod", kinds):
            return Reading(AttemptPhase.ENDED, f"{last.get('reason')}: {last.get('message')}", code)
    return Reading(AttemptPhase.ENDED, message, Code.EVICTED)


def _of_pod(pod: Object, job: Object | None, events: Sequence[Object], *, disruption_counts: bool) -> Reading:
    """How a pod that has ended did so."""
    report = _report(pod)
    phase = status(pod).get("phase")
    # A sidecar that failed makes the pod Failed, but the render may have succeeded.
    done = phase == "Succeeded" or any(name == CONTAINER and end.get("exitCode") == 0 for name, end in ends(pod))
    if done and report is not None and report.code is Code.SUCCEEDED:
        return _ended(Code.SUCCEEDED, report.message, pod)
    target = condition(pod, "DisruptionTarget")
    if disruption_counts and target and not _was_over(pod, target):
        return _disrupted(pod, events, "")
    reason, message = status(pod).get("reason") or "", status(pod).get("message") or ""
    if reason in _POD_REASONS:
        return _ended(_POD_REASONS[reason], message or reason, pod)
    if reason == "Evicted":
        return _ended(_evicted(message), message, pod)
    if reason == "UnexpectedAdmissionError" and _NO_DEVICES.search(message):  # a GPU failed after the pod was scheduled
        return _ended(Code.GPU_UNHEALTHY, message, pod)
    if _NOT_TAKEN.match(reason):  # two pods were scheduled onto one node at once, say
        return _ended(Code.EVICTED, message or reason, pod)
    if deleted_at(pod) is not None:
        return _ended(Code.DELETED, "the pod was deleted", pod)
    if done and phase != "Failed":
        if report is not None:
            return _ended(report.code, report.message, pod)
        return _ended(Code.SUCCEEDED, "exit code 0 and no report", pod)
    return _of_containers(pod, report, f"{reason}: {message}" if reason else message)


def _evicted(message: str) -> Code:
    """Why a kubelet evicted a pod: the node was short of something, or the pod was over a limit of its own."""
    return Code.EVICTED if _NODE_SHORT.search(message) else Code.STORAGE


def _was_over(pod: Object, target: Object) -> bool:
    """Whether the pod had ended before it was marked as disrupted, because its node was removed later."""
    if any((one.get("state") or {}).get("running") for one in containers(pod)):
        return False  # its node was lost before it could report the end
    marked = target.get("lastTransitionTime") or ""
    finished = [end.get("finishedAt") or "" for _, end in ends(pod)]
    return bool(marked and finished) and max(finished) < marked


def _of_containers(pod: Object, report: PodReport | None, why: str) -> Reading:
    bad = _bad(pod)
    if bad is None:
        return _ended(report.code if report else Code.UNKNOWN, why or "the pod failed and no container says why", pod)
    name, end = bad
    exit_code, reason = end.get("exitCode"), end.get("reason")
    message = (end.get("message") or "").strip()
    what = f"container {name} ended with exit code {exit_code}"
    if code := _CONTAINER_REASONS.get(str(reason)):
        if code is Code.CONFIG_ERROR and NO_DEVICE.search(message):
            code = Code.GPU_UNHEALTHY
        return _ended(code, f"{what} ({reason})" + (f": {message}" if message else ""), pod)
    if name == WEIGHTS_CONTAINER:
        return _ended(Code.STORAGE, f"{what}: {message}", pod)
    if report is not None and report.code is not Code.SUCCEEDED:
        return _ended(report.code, report.message, pod)
    if exit_code in HOPELESS_EXIT_CODES:
        return _ended(Code.CONFIG_ERROR, f"{what}: {message}", pod)
    if exit_code == _SIGKILL_EXIT or RANK_KILLED.search(message):
        return _ended(Code.KILLED, f"{what}: a process of it was killed by signal 9; was memory short?", pod)
    if message and report is None:
        return _ended(Code.ENGINE_ERROR, message if name == CONTAINER else f"{what}: {message}", pod)
    return _ended(Code.UNKNOWN, f"{what} and {'a report of success' if report else 'no report'}", pod)


def _bad(pod: Object) -> tuple[str, Object] | None:
    """The name and end of the render's container if it failed, else of the first that did."""
    bad = [(name, end) for name, end in ends(pod) if end.get("exitCode") != 0]
    return min(bad, key=lambda one: (one[0] != CONTAINER, one[1].get("finishedAt") or ""), default=None)


def _report(pod: Object) -> PodReport | None:
    reports = (PodReport.from_message(end.get("message") or "") for _, end in ends(pod))
    return next((report for report in reports if report is not None), None)


def _ended(code: Code, reason: str, pod: Object | None) -> Reading:
    if pod is None:
        return Reading(AttemptPhase.ENDED, reason, code)
    ended = ends(pod)
    bad = _bad(pod)
    exit_code = bad[1].get("exitCode") if bad else (ended[-1][1].get("exitCode") if ended else None)
    return Reading(
        AttemptPhase.ENDED, reason, code, exit_code=exit_code, report=_report(pod), node=spec(pod).get("nodeName")
    )
