"""How a render pod looks in this deployment's cluster: the settings in TESSERA_POD, checked once.

What a render needs (ranks, image, deadline) is in the attempt's spec; here is what only the cluster needs to know.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from k8s.merge import problems
from pipeline.deployment.settings import Settings
from pipeline.errors import SettingsError

MODELS_PATH = "/models"
REDIS_CA_PATH, REDIS_CLIENT_PATH = "/etc/tessera/redis-ca", "/etc/tessera/redis-client"

# torchrun gives its ranks this long to end after SIGTERM; the rest of the grace period is for torchrun itself.
TORCHRUN_RESERVE_S = 5

_TEMPLATE = {"metadata", "spec"}
_GRACE = "terminationGracePeriodSeconds"
_KUBERNETES_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WeightsCache(_Part):
    """Weights that an init container copies from the deployment's bucket to a volume near the GPUs, once a node."""

    source: str = Field(
        description="Folder in the bucket, relative to the prefix, with a SHA256SUMS file.", min_length=1
    )
    volume: dict[str, Any] = Field(
        description="Volume source to keep them in, as Kubernetes writes it: a node-local claim, say, or hostPath."
    )


class Clocks(_Part):
    """How long an attempt may wait, each kind of wait by itself. The time it may run is the spec's deadline."""

    quota_s: float | None = Field(None, gt=0, description="For quota (Kueue, ResourceQuota); none waits for ever.")
    node_s: float | None = Field(24 * 3600, gt=0, description="For a node; none waits for ever.")
    start_s: float = Field(900, ge=0, description="For an image, a volume or a Secret that is missing.")
    admission_s: float = Field(
        120, ge=0, description="For a pod that the cluster refuses for another reason than quota."
    )
    node_lost_s: float = Field(120, ge=0, description="For the end of a pod whose node no longer reports.")


class PodSettings(_Part):
    """Everything about a pod except what it renders."""

    namespace: str | None = Field(None, description="Namespace of pods; by default the worker's, or the kubeconfig's.")
    service_account: str | None = Field(None, description="Service account of the pod; its token is never mounted.")
    image_pull_secrets: tuple[str, ...] = Field((), description="Secrets to pull the image with.")
    image_pull_policy: str | None = Field(None, description="Always, IfNotPresent or Never; none is Kubernetes' own.")
    env_from_secrets: tuple[str, ...] = Field(
        (),
        description="Secrets whose keys become variables: TESSERA_REDIS_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.",
    )
    redis_ca_secret: str | None = Field(
        None, description="Secret with the file of TESSERA_REDIS_CA, mounted at /etc/tessera/redis-ca."
    )
    redis_client_secret: str | None = Field(
        None, description="Secret with those of TESSERA_REDIS_CERT and _KEY, mounted at /etc/tessera/redis-client."
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="More variables, none of them secret, such as NCCL_DEBUG."
    )
    gpu_resource: str = Field("nvidia.com/gpu", description="Name of the GPU resource.")
    requests: dict[str, str] = Field(
        default_factory=lambda: {"cpu": "16", "memory": "128Gi"}, description="Requested CPU and memory, without GPUs."
    )
    limits: dict[str, str] = Field(
        default_factory=lambda: {"memory": "128Gi"}, description="Limits, without GPUs; shm counts as memory."
    )
    shm_size: str = Field(
        "8Gi", pattern=_KUBERNETES_QUANTITY, description="Memory-backed /dev/shm; NCCL needs over 64 Mi."
    )
    scratch_size: str = Field("20Gi", pattern=_KUBERNETES_QUANTITY, description="Limit of the scratch volume.")
    user: int = Field(10001, ge=1, description="User and group of the pod.")
    models_claim: str | None = Field(None, description="PersistentVolumeClaim with the weights, mounted read-only.")
    models_job: str | None = Field(
        None, description="Job that fills that claim: pods with models in /models wait until it has ended."
    )
    models_image: str | None = Field(None, description="Image volume with the weights (Kubernetes 1.33 and later).")
    models_cache: WeightsCache | None = Field(None, description="Node-local copy of weights that lie in the bucket.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that its node must have.")
    tolerations: tuple[dict[str, Any], ...] = Field((), description="Taints that it tolerates.")
    affinity: dict[str, Any] = Field(default_factory=dict, description="As Kubernetes writes it.")
    priority_class: str | None = Field(None, description="PriorityClass of the pod.")
    runtime_class: str | None = Field(None, description="RuntimeClass of the pod, such as nvidia.")
    kueue_queue: str | None = Field(
        None, description="LocalQueue of Kueue; the Job is created suspended and waits there."
    )
    kueue_priority_class: str | None = Field(None, description="WorkloadPriorityClass of Kueue.")
    labels: dict[str, str] = Field(default_factory=dict, description="More labels of Job and pod.")
    annotations: dict[str, str] = Field(default_factory=dict, description="More annotations of the pod.")
    ttl_s: int = Field(24 * 3600, ge=60, description="How long a Job that ended is kept if nobody deletes it.")
    grace_s: int = Field(60, gt=TORCHRUN_RESERVE_S, description="From SIGTERM to SIGKILL.")
    template: dict[str, Any] = Field(
        default_factory=dict,
        description="Merged by key into the finished pod template: metadata and spec. null removes.",
    )
    clocks: Clocks = Field(Clocks(), description="Limits on waiting; see outcomes.md.")
    request_timeout_s: float = Field(15, gt=0, description="Longest time for one request to the cluster.")

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        sources = {
            "models_claim": self.models_claim,
            "models_image": self.models_image,
            "models_cache": self.models_cache,
        }
        given = [name for name, value in sources.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} found; wanted one of them, or none if the image holds the weights")
        return self

    @model_validator(mode="after")
    def _template_can_be_merged(self) -> Self:
        found = [*problems(self.template), *(f"{key}: no part of it" for key in self.template.keys() - _TEMPLATE)]
        found += [
            f"{key}: an object wanted"
            for key, part in self.template.items()
            if key in _TEMPLATE and not isinstance(part, dict)
        ]
        # What is read of it while the Job is built.
        if not found and not isinstance(self.template.get("metadata", {}).get("labels") or {}, dict):
            found = ["metadata.labels: an object wanted"]
        if not found and not isinstance(self.template.get("spec", {}).get(_GRACE) or 0, int):
            found = [f"spec.{_GRACE}: a whole number wanted"]
        if found:
            raise ValueError("template: " + "; ".join(found))
        return self

    @model_validator(mode="after")
    def _queue_of_its_priority(self) -> Self:
        if self.kueue_priority_class and not self.kueue_queue:
            raise ValueError("kueue_priority_class needs kueue_queue")
        return self


def pod_settings(settings: Settings) -> PodSettings:
    """The pod settings of a deployment. Raises SettingsError with every problem by name."""
    try:
        pod = PodSettings.model_validate(settings.pod)
    except ValidationError as error:
        problems = [
            f"  TESSERA_POD{''.join(f'.{part}' for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError("pod settings cannot be used:\n" + "\n".join(problems)) from error
    if settings.image == "local":
        raise SettingsError("TESSERA_IMAGE: 'local' found; a container image by digest wanted, for pods of a cluster")
    if settings.redis_has_secret and not pod.env_from_secrets:
        raise SettingsError(
            "TESSERA_POD.env_from_secrets: none found, and TESSERA_REDIS_URL holds a password; "
            "put it in a Secret under that name, and name the Secret here"
        )
    return pod
