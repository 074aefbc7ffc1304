"""The Job of an attempt: valid for Kubernetes, one pod, restricted, nothing secret, and the user's template in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from k8s.job_manifest import FOR_PODS, job_manifest
from k8s.merge import merged
from k8s.pod import PodSettings, pod_settings
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import SettingsError
from pipeline.records.attempt import HOPELESS_EXIT_CODES, AttemptSpec

Make = Callable[..., Any]

EVERYTHING = {
    "namespace": "renders",
    "service_account": "render",
    "image_pull_secrets": ["registry"],
    "image_pull_policy": "IfNotPresent",
    "env_from_secrets": ["tessera", "s3"],
    "env": {"NCCL_DEBUG": "WARN"},
    "requests": {"cpu": "32", "memory": "200Gi"},
    "limits": {"memory": "200Gi"},
    "shm_size": "16Gi",
    "models_claim": "weights",
    "node_selector": {"gpu": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]},
                ]
            }
        }
    },
    "priority_class": "batch",
    "runtime_class": "nvidia",
    "kueue_queue": "gpus",
    "kueue_priority_class": "low",
    "labels": {"team": "catalogue"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "ttl_s": 600,
    "grace_s": 90,
    "template": {
        "metadata": {"annotations": {"note": "kept"}},
        "spec": {
            "hostname": "render",
            "dnsPolicy": "Default",
            "containers": [{"name": "render", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}],
            "volumes": [{"name": "extra", "emptyDir": {}}],
        },
    },
}


def _manifest(make_spec: Make, make_settings: Make, pod: dict[str, Any] | None = None, **kwargs: Any) -> dict[str, Any]:
    settings: Settings = make_settings(pod)
    return job_manifest(make_spec(), pod_settings(settings), settings, **kwargs)


def _pod(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def _environment(container: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


@pytest.mark.parametrize(
    "pod",
    [
        {},
        EVERYTHING,
        {"models_image": "registry.example/weights:1"},
        {"models_cache": {"source": "models/sdxl", "volume": {"hostPath": {"path": "/var/cache/tessera"}}}},
    ],
    ids=["default", "everything", "image volume", "cache"],
)
def test_every_field_is_one_that_kubernetes_knows(make_spec: Make, make_settings: Make, pod: dict[str, Any]) -> None:
    manifest = _manifest(make_spec, make_settings, pod, avoid_nodes=["gpu-7"])
    # The client's models drop what they do not know and refuse wrong types.
    assert client.ApiClient().sanitize_for_serialization(client.V1Job.from_dict(manifest)) == manifest


def test_the_job_is_one_pod_and_remembers_why_it_ended(make_spec: Make, make_settings: Make) -> None:
    manifest = _manifest(make_spec, make_settings)
    spec = manifest["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (1, 1, 0)
    assert spec["podReplacementPolicy"] == "Failed"
    disruption, exit_codes = spec["podFailurePolicy"]["rules"]
    assert disruption == {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert exit_codes["onExitCodes"]["values"] == list(HOPELESS_EXIT_CODES)
    assert exit_codes["onExitCodes"]["containerName"] == _pod(manifest)["containers"][0]["name"]
    assert "activeDeadlineSeconds" not in spec  # it would count waiting
    assert _pod(manifest)["activeDeadlineSeconds"] == 3600
    assert _pod(manifest)["restartPolicy"] == "Never"
    assert "suspend" not in spec


def test_the_pod_is_what_the_restricted_standard_asks_for(make_spec: Make, make_settings: Make) -> None:
    cache = {"models_cache": {"source": "m", "volume": {"ephemeral": {}}}}
    pod = _pod(_manifest(make_spec, make_settings, cache))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for container in [*pod["containers"], *pod["initContainers"]]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}


def test_the_container_runs_torchrun_on_all_gpus_with_room_to_end(make_spec: Make, make_settings: Make) -> None:
    pod = _pod(_manifest(make_spec, make_settings))
    (container,) = pod["containers"]
    torchrun = "torchrun --standalone --nproc-per-node=8 -m distri.run"
    assert " ".join(container["command"]) == f"python -P -m distri.run.{torchrun}"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "8"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}  # noqa: S108
    environment = _environment(container)
    assert 0 < int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["TESSERA_POD_UID"] == {"fieldRef": {"fieldPath": "metadata.uid"}}
    assert AttemptSpec.model_validate_json(environment["TESSERA_ATTEMPT"]) == make_spec()


def test_a_grace_period_of_the_template_leaves_room_to_end_too(make_spec: Make, make_settings: Make) -> None:
    template = {"spec": {"terminationGracePeriodSeconds": 20}}
    pod = _pod(_manifest(make_spec, make_settings, {"template": template}))
    assert pod["terminationGracePeriodSeconds"] == 20
    assert _environment(pod["containers"][0])["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "15"


def test_a_cpu_attempt_asks_for_no_gpu(make_spec: Make, make_settings: Make) -> None:
    settings = make_settings()
    manifest = job_manifest(make_spec(device="cpu"), pod_settings(settings), settings)
    assert "nvidia.com/gpu" not in json.dumps(manifest)


def test_the_pods_environment_is_one_that_a_pod_can_load(make_spec: Make, make_settings: Make) -> None:
    environment = _environment(_pod(_manifest(make_spec, make_settings))["containers"][0])
    plain = {name: value for name, value in environment.items() if isinstance(value, str)}
    loaded = load_settings(plain | {"TESSERA_REDIS_URL": "redis://redis.example", "TESSERA_POD_UID": "u"})
    assert loaded.s3_bucket == "renders"
    assert loaded.redis_prefix == "studio"
    assert loaded.models == make_settings().models
    assert loaded.log_format == "json"
    # A Service in the namespace may be called tessera-redis, and settings refuse TESSERA_REDIS_PORT.
    assert _pod(_manifest(make_spec, make_settings))["enableServiceLinks"] is False


def test_a_pod_is_told_every_setting_that_its_code_reads() -> None:
    root = Path(__file__).resolve().parents[2]
    rooms = (root / "pipeline" / "bucket", root / "pipeline" / "ledger", root / "distri" / "run")
    files = [file for room in rooms for file in room.rglob("*.py")]
    read = {name for file in files for name in re.findall(r"settings\.(\w+)", file.read_text())}
    assert len(files) > 10
    # The URL comes from a Secret, and a pod always logs JSON.
    read |= {"redis_ca", "redis_cert", "redis_key"} if "redis_tls" in read else set()
    # Only workers claim jobs, and only they have slots.
    read -= {"tenants", "worker_slots"}
    # Only the service gives links to people outside.
    read -= {"api_links_endpoint"}
    assert read & Settings.model_fields.keys() == {*FOR_PODS, "redis_url", "log_format"}


def test_nothing_secret_is_in_the_manifest(make_spec: Make, make_settings: Make) -> None:
    manifest = _manifest(make_spec, make_settings)
    assert "hunter2" not in json.dumps(manifest)
    assert _pod(manifest)["containers"][0]["envFrom"] == [{"secretRef": {"name": "tessera"}}]


def test_a_redis_without_password_needs_no_secret(make_spec: Make, make_settings: Make) -> None:
    settings = make_settings({"env_from_secrets": []}, redis_url="redis://redis.example:6379/0")
    manifest = job_manifest(make_spec(), pod_settings(settings), settings)
    assert _environment(_pod(manifest)["containers"][0])["TESSERA_REDIS_URL"] == "redis://redis.example:6379/0"


def test_a_kubelet_does_not_expand_values(make_spec: Make, make_settings: Make) -> None:
    manifest = _manifest(make_spec, make_settings, {"env": {"PATTERN": "$(HOME)"}})
    assert _environment(_pod(manifest)["containers"][0])["PATTERN"] == "$$(HOME)"


def test_names_labels_and_annotations_lead_back_to_the_record(make_spec: Make, make_settings: Make) -> None:
    settings = make_settings(EVERYTHING)
    spec = make_spec(batch_id="b" * 80)
    manifest = job_manifest(spec, pod_settings(settings), settings)
    metadata = manifest["metadata"]
    assert metadata["name"] == spec.name
    assert metadata["annotations"]["tessera/batch"] == "b" * 80
    assert metadata["annotations"]["tessera/spec-digest"] == spec.digest
    assert AttemptSpec.model_validate_json(metadata["annotations"]["tessera/spec"]) == spec
    template = manifest["spec"]["template"]["metadata"]
    for labels in (metadata["labels"], template["labels"]):
        assert labels["tessera/deployment"] == "studio"
        assert labels["tessera/incarnation"] == "ab12cd34"
        assert labels["tessera/job"] == "00003"
        assert labels["tessera/attempt"] == "1"
        assert labels["team"] == "catalogue"
        assert all(len(value) <= 63 for value in labels.values())
    assert template["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_kueue_gets_its_two_labels_and_a_suspended_job(make_spec: Make, make_settings: Make) -> None:
    manifest = _manifest(make_spec, make_settings, {"kueue_queue": "gpus", "kueue_priority_class": "low"})
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
    assert manifest["spec"]["suspend"] is True


def test_the_manifest_digest_follows_the_manifest(make_spec: Make, make_settings: Make) -> None:
    def digest(pod: dict[str, Any]) -> str:
        found: str = _manifest(make_spec, make_settings, pod)["metadata"]["annotations"]["tessera/manifest-digest"]
        return found

    assert digest({}) == digest({})
    assert digest({}) != digest({"grace_s": 61})


@pytest.mark.parametrize(
    ("pod", "volume"),
    [
        ({"models_claim": "weights"}, {"persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}),
        ({"models_image": "weights:1"}, {"image": {"reference": "weights:1"}}),
        ({"models_cache": {"source": "m", "volume": {"hostPath": {"path": "/c"}}}}, {"hostPath": {"path": "/c"}}),
    ],
)
def test_weights_are_mounted_read_only(
    make_spec: Make, make_settings: Make, pod: dict[str, Any], volume: dict[str, Any]
) -> None:
    found = _pod(_manifest(make_spec, make_settings, pod))
    assert {"name": "models", **volume} in found["volumes"]
    (mount,) = [mount for mount in found["containers"][0]["volumeMounts"] if mount["name"] == "models"]
    assert mount == {"name": "models", "mountPath": "/models", "readOnly": True}


def test_the_template_is_merged_by_key_and_cannot_hide_the_pod(make_spec: Make, make_settings: Make) -> None:
    template = {
        "metadata": {"labels": {"tessera/deployment": "other", "more": "kept"}},
        "spec": {
            "restartPolicy": "OnFailure",
            "containers": [
                {"name": "render", "env": [{"name": "HF_HUB_OFFLINE", "value": "0"}, {"name": "NEW", "value": "1"}]},
                {"name": "sidecar", "image": "s"},
            ],
            "enableServiceLinks": None,
        },
    }
    manifest = _manifest(make_spec, make_settings, {"template": template})
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert labels["tessera/deployment"] == "studio"
    assert labels["more"] == "kept"
    pod = _pod(manifest)
    assert pod["restartPolicy"] == "Never"
    assert "enableServiceLinks" not in pod
    assert [container["name"] for container in pod["containers"]] == ["render", "sidecar"]
    environment = _environment(pod["containers"][0])
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["NEW"] == "1"
    assert environment["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("base", "patch", "result"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        (
            {"env": [{"name": "x", "v": "1"}]},
            {"env": [{"name": "x", "more": 2}]},
            {"env": [{"name": "x", "v": "1", "more": 2}]},
        ),
        (
            {"volumeMounts": [{"mountPath": "/a", "name": "v"}]},
            {"volumeMounts": [{"mountPath": "/b", "name": "v"}]},
            {"volumeMounts": [{"mountPath": "/a", "name": "v"}, {"mountPath": "/b", "name": "v"}]},
        ),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": []}, {"tolerations": []}),
    ],
)
def test_merging(base: Any, patch: Any, result: Any) -> None:
    assert merged(base, patch) == result


def test_avoided_nodes_are_ruled_out_of_every_alternative(make_spec: Make, make_settings: Make) -> None:
    def terms(pod: dict[str, Any]) -> list[dict[str, Any]]:
        affinity = _pod(_manifest(make_spec, make_settings, pod, avoid_nodes=["gpu-7", "gpu-3"]))["affinity"]
        found: list[dict[str, Any]] = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        return found

    away = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in ("gpu-3", "gpu-7")]
    assert terms({}) == [{"matchFields": away}]
    zones = terms(EVERYTHING)
    assert [term["matchExpressions"][0]["values"] for term in zones] == [["a"], ["b"]]
    assert all(term["matchFields"] == away for term in zones)
    of_template = {"template": {"spec": {"affinity": EVERYTHING["affinity"]}}}
    assert terms(of_template) == zones
    # A heading with nothing below it is null.
    required: list[Any] = [None, {"nodeSelectorTerms": None}, {"nodeSelectorTerms": [{"matchFields": None}]}]
    headings = [None, *({"requiredDuringSchedulingIgnoredDuringExecution": one} for one in required)]
    for heading in headings:
        assert terms({"affinity": {"nodeAffinity": heading}}) == [{"matchFields": away}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pod": {"gpu": 8}}, "TESSERA_POD.gpu"),
        ({"pod": {"clocks": {"node_s": -1}}}, "TESSERA_POD.clocks.node_s"),
        ({"pod": {"models_claim": "a", "models_image": "b"}}, "models_claim and models_image"),
        (
            {"pod": {"template": {"spec": {"containers": [{"image": "x"}]}}}},
            "an object with 'name'",
        ),
        ({"pod": {"template": {"spec": {"volumes": {"a": {}}}}}}, "spec.volumes: a list wanted"),
        ({"pod": {"template": {"containers": []}}}, "containers: no part of it"),
        ({"pod": {"template": {"spec": None}}}, "template: spec: an object wanted"),
        ({"pod": {"template": {"metadata": []}}}, "template: metadata: an object wanted"),
        ({"pod": {"template": {"metadata": {"labels": ["a"]}}}}, "metadata.labels: an object wanted"),
        (
            {"pod": {"template": {"spec": {"terminationGracePeriodSeconds": "a minute"}}}},
            "terminationGracePeriodSeconds: a whole number wanted",
        ),
        ({"pod": {"kueue_priority_class": "low"}}, "needs kueue_queue"),
        ({"pod": {"env_from_secrets": []}}, "holds a password"),
        ({"image": "local"}, "TESSERA_IMAGE"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    make_settings: Make, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        pod_settings(make_settings(**settings))


def test_pod_settings_come_from_one_json_variable() -> None:
    environment = {"TESSERA_REDIS_URL": "redis://r", "TESSERA_S3_BUCKET": "b", "TESSERA_POD": '{"ttl_s": 99}'}
    assert PodSettings.model_validate(load_settings(environment).pod).ttl_s == 99
    with pytest.raises(SettingsError, match="TESSERA_POD: not JSON"):
        load_settings(environment | {"TESSERA_POD": "{"})
