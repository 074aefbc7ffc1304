"""Build the batch/v1 Job that runs an attempt: one Job with one pod, started at most once. Makes no request.

The Job is a plain dict rather than a model of the Kubernetes client: the API reads it and people print it as it is,
tests need no client, and a field that is newer than the client is not lost.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

from k8s.merge import merged
from k8s.pod import MODELS_PATH, REDIS_CA_PATH, REDIS_CLIENT_PATH, TORCHRUN_RESERVE_S, PodSettings
from pipeline.deployment.settings import Settings, variable_name
from pipeline.names import ATTEMPT_VARIABLE, POD_UID_VARIABLE
from pipeline.records.attempt import HOPELESS_EXIT_CODES, SHUTDOWN_VARIABLE, AttemptSpec, torchrun

CONTAINER, WEIGHTS_CONTAINER = "render", "fetch-weights"

DEPLOYMENT_LABEL = "tessera/deployment"
INCARNATION_LABEL = "tessera/incarnation"
JOB_LABEL = "tessera/job"
ATTEMPT_LABEL = "tessera/attempt"
BATCH_ANNOTATION = "tessera/batch"  # up to 80 characters; a label holds 63
SPEC_ANNOTATION = "tessera/spec"
DIGEST_ANNOTATION = "tessera/spec-digest"
MANIFEST_ANNOTATION = "tessera/manifest-digest"

SCRATCH_PATH = "/scratch"

# Which of the deployment's settings a pod reads, besides the Redis URL.
FOR_PODS = (
    *("redis_ca", "redis_cert", "redis_key", "redis_prefix"),
    *("s3_endpoint", "s3_region", "s3_bucket", "s3_prefix"),
    "connect_timeout_s",
    "models",
    "loras",
    "embeddings",
    "controlnets",
    "ip_adapters",
    "fused",
    "replay",
    "collective_timeout_s",
    "log_level",
)


def deployment_selector(deployment: str) -> str:
    """The label selector of everything that a deployment runs."""
    return f"{DEPLOYMENT_LABEL}={deployment}"


def job_manifest(
    spec: AttemptSpec, pod: PodSettings, settings: Settings, *, avoid_nodes: Iterable[str] = ()
) -> dict[str, Any]:
    """The Job of an attempt.

    Args:
        spec: what to render and how, as recorded in the ledger; attempts with equal specs are the same.
        pod: how pods look in this deployment's cluster.
        settings: the deployment's, for the pod's environment; no secret of it gets into the Job.
        avoid_nodes: names of nodes that the pod must not run on.
    """
    labels = _labels(spec, settings.redis_prefix)
    annotations = {
        BATCH_ANNOTATION: spec.batch_id,
        SPEC_ANNOTATION: spec.model_dump_json(),
        DIGEST_ANNOTATION: spec.digest,
    }
    template = merged(_template(spec, pod, settings), pod.template)
    # The template must not change how the pod is found and how it ends.
    template["metadata"]["labels"] = {**template["metadata"].get("labels", {}), **labels}
    template["spec"]["restartPolicy"] = "Never"
    if nodes := sorted(set(avoid_nodes)):
        template["spec"]["affinity"] = _affinity_without(template["spec"].get("affinity") or {}, nodes)
    queue = {"kueue.x-k8s.io/queue-name": pod.kueue_queue, "kueue.x-k8s.io/priority-class": pod.kueue_priority_class}
    job: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": spec.name,
            "labels": {**pod.labels, **labels, **{key: value for key, value in queue.items() if value}},
            "annotations": annotations,
        },
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": CONTAINER,
                            "operator": "In",
                            "values": list(HOPELESS_EXIT_CODES),
                        },
                    },
                ]
            },
            "ttlSecondsAfterFinished": pod.ttl_s,
            **({"suspend": True} if pod.kueue_queue else {}),
            "template": template,
        },
    }
    text = json.dumps(job, sort_keys=True)
    annotations[MANIFEST_ANNOTATION] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return job


def _labels(spec: AttemptSpec, deployment: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "tessera",
        "app.kubernetes.io/instance": deployment,
        "app.kubernetes.io/component": CONTAINER,
        "app.kubernetes.io/part-of": "tessera",
        "app.kubernetes.io/managed-by": "tessera",
        DEPLOYMENT_LABEL: deployment,
        INCARNATION_LABEL: spec.incarnation,
        JOB_LABEL: f"{spec.job_index:05d}",
        ATTEMPT_LABEL: str(spec.number),
    }


def _template(spec: AttemptSpec, pod: PodSettings, settings: Settings) -> dict[str, Any]:
    volumes, models = _volumes(pod)
    writable = [{"name": "scratch", "mountPath": SCRATCH_PATH}]
    main = _container(pod, settings, spec)
    main |= {
        "name": CONTAINER,
        "command": torchrun("python", spec.gpus),
        "resources": _resources(pod, spec),
        "volumeMounts": [
            *writable,
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the one place where NCCL looks
            *({"name": name, "mountPath": path, "readOnly": True} for name, path, _ in _redis_secrets(pod)),
            *([{"name": "models", "mountPath": MODELS_PATH, "readOnly": True}] if models else []),
        ],
    }
    pod_spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": math.ceil(spec.deadline_s),  # the pod's: a Job's deadline would count waiting too
        "terminationGracePeriodSeconds": pod.grace_s,
        "automountServiceAccountToken": False,
        # Otherwise a Service called tessera-x would put TESSERA_X_PORT into the environment.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pod.user,
            "runAsGroup": pod.user,
            "fsGroup": pod.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [main],
        "volumes": volumes,
    }
    if pod.models_cache is not None:
        fetch = ["python", "-P", "-m", "k8s.weights", "--source", pod.models_cache.source, "--target", MODELS_PATH]
        init = _container(pod, settings, spec)
        init |= {
            "name": WEIGHTS_CONTAINER,
            "command": fetch,
            # A pod requests the larger of what its init containers and its containers request, so this costs nothing.
            "resources": {"requests": dict(pod.requests), "limits": dict(pod.limits)},
            "volumeMounts": [*writable, {"name": "models", "mountPath": MODELS_PATH}],
        }
        pod_spec["initContainers"] = [init]
    optional = {
        "serviceAccountName": pod.service_account,
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
        "nodeSelector": pod.node_selector,
        "tolerations": list(pod.tolerations),
        "affinity": pod.affinity,
        "priorityClassName": pod.priority_class,
        "runtimeClassName": pod.runtime_class,
    }
    pod_spec |= {name: value for name, value in optional.items() if value}
    return {
        "metadata": {
            "labels": {**pod.labels},
            "annotations": {
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
                **pod.annotations,
                BATCH_ANNOTATION: spec.batch_id,
            },
        },
        "spec": pod_spec,
    }


def _container(pod: PodSettings, settings: Settings, spec: AttemptSpec) -> dict[str, Any]:
    container: dict[str, Any] = {
        "image": spec.image,
        "env": _environment(pod, settings, spec),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # If no report was written, the last lines of the log take its place.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if pod.image_pull_policy:
        container["imagePullPolicy"] = pod.image_pull_policy
    if pod.env_from_secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in pod.env_from_secrets]
    return container


def _environment(pod: PodSettings, settings: Settings, spec: AttemptSpec) -> list[dict[str, Any]]:
    variables = settings.environment()
    names = [variable_name(name) for name in FOR_PODS]
    deployment = {name: variables[name] for name in names if name in variables}
    if not settings.redis_has_secret and not pod.env_from_secrets:  # `env` would override that of a Secret
        deployment["TESSERA_REDIS_URL"] = settings.redis_url.get_secret_value()
    plain = {
        "HOME": SCRATCH_PATH,
        "TMPDIR": SCRATCH_PATH,
        "XDG_CACHE_HOME": f"{SCRATCH_PATH}/cache",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        SHUTDOWN_VARIABLE: str(max(1, _grace_s(pod) - TORCHRUN_RESERVE_S)),
        **deployment,
        "TESSERA_LOG_FORMAT": "json",
        **pod.env,
        ATTEMPT_VARIABLE: spec.model_dump_json(),
    }
    return [
        # A kubelet would replace $(NAME) in a value.
        *({"name": name, "value": value.replace("$(", "$$(")} for name, value in plain.items()),
        {"name": POD_UID_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]


def _grace_s(pod: PodSettings) -> int:
    """The pod's grace period, which the template may have set."""
    return int((pod.template.get("spec") or {}).get("terminationGracePeriodSeconds") or pod.grace_s)


def _resources(pod: PodSettings, spec: AttemptSpec) -> dict[str, Any]:
    gpus = {} if spec.device == "cpu" else {pod.gpu_resource: str(spec.gpus)}
    return {"requests": {**pod.requests, **gpus}, "limits": {**pod.limits, **gpus}}


def _redis_secrets(pod: PodSettings) -> list[tuple[str, str, str]]:
    """Volume, path and Secret of each file that TLS to Redis needs."""
    parts = (
        ("redis-ca", REDIS_CA_PATH, pod.redis_ca_secret),
        ("redis-client", REDIS_CLIENT_PATH, pod.redis_client_secret),
    )
    return [(name, path, secret) for name, path, secret in parts if secret is not None]


def _volumes(pod: PodSettings) -> tuple[list[dict[str, Any]], bool]:
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pod.shm_size}},
        {"name": "scratch", "emptyDir": {"sizeLimit": pod.scratch_size}},
    ]
    volumes += [{"name": name, "secret": {"secretName": secret}} for name, _, secret in _redis_secrets(pod)]
    models: dict[str, Any] | None = None
    if pod.models_claim is not None:
        models = {"persistentVolumeClaim": {"claimName": pod.models_claim, "readOnly": True}}
    elif pod.models_image is not None:
        models = {"image": {"reference": pod.models_image}}
    elif pod.models_cache is not None:
        models = dict(pod.models_cache.volume)
    if models is not None:
        volumes.append({"name": "models", **models})
    return volumes, models is not None


def _affinity_without(affinity: dict[str, Any], nodes: list[str]) -> dict[str, Any]:
    """`affinity` without `nodes`. The terms of a node affinity are alternatives, so each of them excludes the nodes."""
    # matchFields takes only one value in each requirement.
    away = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    node_affinity = affinity.get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [
        {**term, "matchFields": [*(term.get("matchFields") or ()), *away]}
        for term in required.get("nodeSelectorTerms") or [{}]
    ]
    return {
        **affinity,
        "nodeAffinity": {
            **node_affinity,
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
        },
    }
