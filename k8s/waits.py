"""What an attempt that has not ended is doing, and what it waits for. Makes no request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from k8s.reading import (
    NO_DEVICE,
    Clock,
    Object,
    Reading,
    about,
    condition,
    conditions,
    containers,
    deleted_at,
    event,
    metadata,
    spec,
    status,
    time_of,
)
from pipeline.records.attempt import AttemptPhase, Code

# Why a container does not start, by the kubelet's reason, and how the attempt ends if that lasts.
_WAITS = {
    "ErrImagePull": Code.IMAGE_PULL,
    "ImagePullBackOff": Code.IMAGE_PULL,
    "ErrImageNeverPull": Code.IMAGE_PULL,
    "ImageInspectError": Code.IMAGE_PULL,
    "RegistryUnavailable": Code.IMAGE_PULL,
    "SignatureValidationFailed": Code.IMAGE_PULL,
    "CreateContainerConfigError": Code.CONFIG_ERROR,
    "CreateContainerError": Code.CONFIG_ERROR,
    "RunContainerError": Code.CONFIG_ERROR,
    "CrashLoopBackOff": Code.CONFIG_ERROR,  # of a sidecar: no other container is restarted
}
# ... and reasons that waiting does not cure.
_INVALID = {"InvalidImageName": Code.CONFIG_ERROR}

_MOUNT_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_SANDBOX_EVENTS = ("FailedCreatePodSandBox",)
# What a kubelet says once volumes and sandbox are there: failures before it are over.
_PAST_BOTH = ("Pulling", "Pulled", "Created", "Started")
# The API distinguishes these only by message.
_ABSENT_CONFIG = re.compile(r"(secret|configmap) \"[^\"]*\" not found|references non-existent", re.IGNORECASE)
_VOLUME = re.compile(r"persistentvolumeclaim|volume node affinity|volume binding", re.IGNORECASE)
_QUOTA = re.compile(r"exceeded quota")
_PULL = re.compile(r"pull image", re.IGNORECASE)
_ERROR = re.compile(r"error", re.IGNORECASE)


def without_pod(job: Object, events: Sequence[Object]) -> Reading:
    """A Job that has no pod and has not ended: it is suspended, its pod is refused, or it is new."""
    created = time_of(metadata(job).get("creationTimestamp"))
    if spec(job).get("suspend"):
        suspended = condition(job, "Suspended")
        since = time_of(suspended.get("lastTransitionTime")) if suspended else created
        return Reading(
            AttemptPhase.WAITING_QUOTA, "its Job is suspended until a queue admits it", Code.QUOTA, Clock.QUOTA, since
        )
    refused = event(events, "Job", ("FailedCreate",))
    if refused is None:
        return Reading(AttemptPhase.PENDING, "waits for its pod to be made", Code.UNKNOWN, Clock.NODE, created)
    message = refused.get("message") or ""
    if _QUOTA.search(message):
        return Reading(AttemptPhase.WAITING_QUOTA, message, Code.QUOTA, Clock.QUOTA, created)
    return Reading(AttemptPhase.PENDING, message, Code.ADMISSION_DENIED, Clock.ADMISSION, created)


def with_live_pod(job: Object | None, pod: Object, events: Sequence[Object]) -> Reading:
    """An attempt with a pod that may still run."""
    node = spec(pod).get("nodeName")
    reported = status(pod).get("phase")
    started = reported in ("Running", "Unknown")  # Unknown: its node does not report, so it may run
    if job is None or deleted_at(pod) is not None:
        why = "its Job is gone" if job is None else _why_it_ends(job, pod)
        phase = AttemptPhase.RUNNING if started else AttemptPhase.PENDING
        # Without a limit it would never end: a dead node reports nothing.
        return Reading(phase, f"the pod is ending: {why}", Code.NODE_LOST, Clock.NODE_LOST, deleted_at(pod), node=node)
    if started:
        silent = reported == "Unknown" or _marked_by_node_controller(pod)
        return Reading(AttemptPhase.RUNNING, f"node {node} does not answer" if silent else f"runs on {node}", node=node)
    if node is None:
        return _unscheduled(pod)
    return _starting(pod, events)


def _why_it_ends(job: Object, pod: Object) -> str:
    for one in (condition(pod, "DisruptionTarget"), condition(job, "FailureTarget", "Failed")):
        if one is not None:
            return str(one.get("message") or one.get("reason"))
    return "its Job was suspended" if spec(job).get("suspend") else "it was deleted"


def _marked_by_node_controller(pod: Object) -> bool:
    """Whether its node has been silent for so long that the cluster has taken the pod's readiness back.

    The node controller changes the status of `Ready` alone. A kubelet that finds a pod unready, since a container has
    ended, say, gives a reason with it, and takes `ContainersReady` back as well.
    """
    told = {str(one.get("type")): one for one in conditions(pod)}
    ready, of_kubelet = told.get("Ready", {}), told.get("ContainersReady", {})
    return ready.get("status") == "False" and not ready.get("reason") and of_kubelet.get("status") == "True"


def _unscheduled(pod: Object) -> Reading:
    created = time_of(metadata(pod).get("creationTimestamp"))
    for one in conditions(pod):
        if one.get("type") != "PodScheduled" or one.get("status") == "True":
            continue
        message = str(one.get("message") or one.get("reason"))
        if one.get("reason") == "SchedulingGated":
            return Reading(AttemptPhase.WAITING_QUOTA, message, Code.QUOTA, Clock.QUOTA, created)
        if _VOLUME.search(message):
            return Reading(AttemptPhase.PENDING, message, Code.STORAGE, Clock.START, created)
        return Reading(AttemptPhase.PENDING, message, Code.UNSCHEDULABLE, Clock.NODE, created)
    return Reading(AttemptPhase.PENDING, "waits for a node", Code.UNSCHEDULABLE, Clock.NODE, created)


def _starting(pod: Object, events: Sequence[Object]) -> Reading:
    node = spec(pod).get("nodeName")
    for container in containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason"), waiting.get("message") or ""
        why = f"{reason}: {message}" if message else f"{reason}"
        if reason in _INVALID:
            return Reading(AttemptPhase.ENDED, why, _INVALID[reason], node=node)
        if code := _WAITS.get(str(reason)):
            if code is Code.IMAGE_PULL:
                why = _with_pull_error(why, events)
            elif NO_DEVICE.search(message):
                code = Code.GPU_UNHEALTHY
            return Reading(AttemptPhase.PENDING, why, code, Clock.START, _since(pod, events, ("Failed",)), node=node)
    last = event(events, "Pod", (*_MOUNT_EVENTS, *_SANDBOX_EVENTS, *_PAST_BOTH)) or {}
    for reasons, fails in ((_MOUNT_EVENTS, Code.STORAGE), (_SANDBOX_EVENTS, Code.UNKNOWN)):
        if last.get("reason") in reasons:
            message = last.get("message") or ""
            code = Code.CONFIG_ERROR if _ABSENT_CONFIG.search(message) else fails
            return Reading(AttemptPhase.PENDING, message, code, Clock.START, _since(pod, events, reasons), node=node)
    return Reading(
        AttemptPhase.PENDING,
        f"starts on {node}",
        Code.UNKNOWN,
        Clock.NODE,
        time_of(metadata(pod).get("creationTimestamp")),
    )


def _with_pull_error(reason: str, events: Sequence[Object]) -> str:
    """`reason`, with the error: an older kubelet's back-off says only that it waits, an event before it says why."""
    if _ERROR.search(reason):
        return reason
    failed = [one for one in events if one.get("reason") == "Failed" and _PULL.search(one.get("message") or "")]
    return f"{reason}; {failed[-1]['message']}" if failed else reason


def _since(pod: Object, events: Sequence[Object], reasons: Sequence[str]) -> datetime | None:
    """When the problem began: pulling a large image before it may have taken long."""
    begun = [
        one.get("firstTimestamp") or one.get("eventTime")
        for one in events
        if about(one).get("name") == metadata(pod).get("name") and one.get("reason") in reasons
    ]
    scheduled = condition(pod, "PodScheduled")
    fallback = scheduled.get("lastTransitionTime") if scheduled else None
    return time_of(min((one for one in begun if one), default=fallback or metadata(pod).get("creationTimestamp")))
