"""The chart and the program agree: settings, rights, what runs, whose pods are whose."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import pytest

from k8s.cluster import RULES
from k8s.job_manifest import job_manifest
from k8s.pod import PodSettings, pod_settings
from pipeline.deployment.settings import Settings, load_settings
from pipeline.operations.declared import declared_schedules
from pipeline.records.attempt import AttemptSpec
from tests.helm.chart import Object, of_kind, pods, render
from tests.helm.test_switches import CLAIM, DEV
from tests.helm.test_values import NIGHTLY

SECRET = {"TESSERA_REDIS_URL": "rediss://user:password@redis:6379/0"}


def _settings(objects: list[Object]) -> Settings:
    """What a worker reads: the ConfigMap, and what the Secrets hold."""
    (config,) = (one for name, one in of_kind(objects, "ConfigMap").items() if name.endswith("-settings"))
    assert all(isinstance(value, str) for value in config["data"].values())
    redis = {} if "TESSERA_REDIS_URL" in config["data"] else SECRET
    return load_settings(config["data"] | redis)


def _attempt(settings: Settings) -> AttemptSpec:
    return AttemptSpec(
        name="tessera-abcd1234-00000-1", batch_id="batch", incarnation="abcd1234", job_index=0, number=1, token="t",
        image=settings.image, gpus=settings.gpus, layout="1x2x4", exact=False, warmup_steps=4, device="cuda",
        dtype="float16", shard_key="shards/00000.jsonl", deadline_s=60,
    )  # fmt: skip


def test_the_least_values_are_settings_of_the_program(least: list[Object]) -> None:
    settings = _settings(least)
    assert settings == load_settings(
        SECRET,
        redis_prefix="render--tessera",
        s3_bucket="renders",
        s3_prefix="render--tessera",
        models={"sdxl": {"path": "/models/sdxl", "revision": "462165984030d82259a11f4367a4eed129e94a7b"}},
        image="registry.example.com/tessera-engine:0.2.0",
        pod=settings.pod,
    )
    assert pod_settings(settings) == PodSettings(
        namespace="render",
        service_account="tessera-pod",
        env_from_secrets=("tessera-redis", "tessera-s3"),
        image_pull_policy="IfNotPresent",
        models_claim="sdxl-weights",
    )


def test_the_fullest_values_are_settings_of_the_program(fullest: list[Object]) -> None:
    settings = _settings(fullest)
    assert (settings.max_rows, settings.tick_s, settings.exact, str(settings.layout)) == (5_000_000, 1.5, True, "1x2x2")
    assert settings.image == f"mirror.example.com/team/tessera-engine@sha256:{'2' * 64}"
    assert settings.models["turbo"].native_px == 512
    unset = settings.model_fields_set ^ Settings.model_fields.keys()
    assert unset == {"data_dir", "redis_ca", "redis_cert", "redis_key", "warm_s", "webhook_key"}
    pod = pod_settings(settings)
    assert pod.models_claim == "studio-renders-weights"
    assert pod.env_from_secrets == ("pod-redis", "s3-key")
    assert (pod.clocks.node_s, pod.clocks.quota_s) == (None, 86_400)
    left = {"models_image", "models_cache", "redis_ca_secret", "redis_client_secret"}
    assert pod.model_fields_set == PodSettings.model_fields.keys() - left


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"schedules": {"night": {**NIGHTLY, "tz": "Berlin"}}}, "TESSERA_SCHEDULES: night: tz: .*Europe/Berlin"),
        ({"schedules": {"night": {**NIGHTLY, "cron": "61 * * * *"}}}, "TESSERA_SCHEDULES: night: cron: .*bad minute"),
        ({"schedules": {"night": {**NIGHTLY, "vary_seed": True, "seed": 1}}}, "night: vary_seed and seed found"),
        ({"settings": {"default_model": "turbo"}}, "default_model"),
        ({"pod": {"kueue_priority_class": "night"}}, "kueue_priority_class needs kueue_queue"),
    ],
)
def test_what_the_schema_cannot_see_the_program_refuses_at_its_start(values: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        _started_with(_settings(render(values).objects))


def test_schedules_of_the_values_are_schedules_of_the_program(fullest: list[Object], least: list[Object]) -> None:
    [(name, spec)] = declared_schedules(_settings(fullest)).items()
    assert (name, spec.cron, spec.tz, spec.overlap) == ("nightly", "0 2 * * *", "Europe/Berlin", "replace")
    assert spec.options.model_dump(exclude_unset=True) == {"steps": 20, "negative_prompt": "people"}
    assert (spec.catch_up, spec.only_new, spec.skip_invalid, spec.priority, spec.tenant) == (
        True,
        True,
        True,
        7,
        "press",
    )
    assert declared_schedules(_settings(least)) == {}


def _started_with(settings: Settings) -> None:
    """What a controller reads at its start."""
    pod_settings(settings)
    declared_schedules(settings)


def test_the_role_is_what_the_launcher_needs(least: list[Object]) -> None:
    (role,) = of_kind(least, "Role").values()
    assert role["rules"] == RULES
    (binding,) = of_kind(least, "RoleBinding").values()
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "tessera-worker", "namespace": "render"}]


def test_only_who_talks_to_the_cluster_has_a_token(fullest: list[Object]) -> None:
    with_token = {name for name, _, spec in pods(fullest) if spec["automountServiceAccountToken"]}
    assert {name.rpartition("-")[2] for name in with_token} == {"worker", "controller", "doctor", "cluster"}
    accounts = of_kind(fullest, "ServiceAccount")
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
    (binding,) = of_kind(fullest, "RoleBinding").values()
    assert [subject["name"] for subject in binding["subjects"]] == ["renders-worker"]
    assert pod_settings(_settings(fullest)).service_account == "renders-pod"


def test_what_containers_run_is_there(fullest: list[Object]) -> None:
    for name, _, spec in pods(fullest):
        for container in spec["containers"]:
            commands = [container["command"]]
            commands += [
                probe["exec"]["command"]
                for key, probe in container.items()
                if key.endswith("Probe") and "exec" in probe
            ]
            for command in commands:
                if command[0] == "python":
                    assert command[1:3] == ["-P", "-m"], name
                    assert importlib.util.find_spec(command[3]), name
                else:
                    assert command[0] in ("tessera", "valkey-server", "sh"), name


def test_workers_begin_anew_when_their_settings_change(least: list[Object]) -> None:
    def sums(objects: list[Object]) -> set[str]:
        return {
            spec["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
            for spec in of_kind(objects, "Deployment").values()
        }

    assert len(sums(least)) == 1
    assert sums(render().objects) == sums(least)
    assert sums(render({"settings": {"tick_s": 3}}).objects) != sums(least)
    changed = render({**DEV, "valkey": {"enabled": True, "password": "another-password-here"}}).objects
    assert [one["checksum/redis"] for one in _annotations(changed)] != [
        one["checksum/redis"] for one in _annotations(render(DEV).objects)
    ]


def _annotations(objects: list[Object]) -> list[Object]:
    return [one["spec"]["template"]["metadata"]["annotations"] for one in of_kind(objects, "Deployment").values()]


def test_all_pods_are_restricted(fullest: list[Object]) -> None:
    for name, _, spec in pods(fullest):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, name
        # A Service's variables would begin with TESSERA_ and stop the program as unknown settings.
        assert spec["enableServiceLinks"] is False, name
        for volume in spec.get("volumes", ()):
            assert "hostPath" not in volume, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name


def test_no_secret_is_anywhere_but_in_a_secret(fullest: list[Object]) -> None:
    plain = json.dumps([one for one in fullest if one["kind"] != "Secret"])
    assert "correct-horse-battery" not in plain


def test_recommended_labels_are_on_everything(fullest: list[Object]) -> None:
    wanted = {
        f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "component", "part-of", "managed-by")
    }
    for one in fullest:
        assert wanted <= one["metadata"]["labels"].keys(), one["metadata"]["name"]
    for name, metadata, _ in pods(fullest):
        assert wanted <= metadata["labels"].keys(), name


def _selected(selector: Object, labels: dict[str, str]) -> bool:
    matches = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return matches and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ()))


def _selectors(objects: list[Object]) -> dict[str, Object]:
    found = {}
    for one in objects:
        spec = one.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector and one["kind"] != "PersistentVolumeClaim":
            plain = one["kind"] == "Service"
            found[f"{one['kind']}/{one['metadata']['name']}"] = {"matchLabels": selector} if plain else selector
    return found


def test_two_releases_in_one_namespace_do_not_meet() -> None:
    values = {**DEV, **CLAIM}
    one, other = (render(values, release=release).objects for release in ("one", "other"))
    names = [{(each["kind"], each["metadata"]["name"]) for each in objects} for objects in (one, other)]
    assert not names[0] & names[1]
    for selector in _selectors(one).values():
        assert not any(_selected(selector, metadata["labels"]) for _, metadata, _ in pods(other))
    first, second = _settings(one), _settings(other)
    assert first.redis_prefix != second.redis_prefix
    assert first.s3_prefix != second.s3_prefix


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("staging", "tessera"), ("production", "tessera")),
        (("a-b", "c"), ("a", "b-c")),
        (("a", "b.c"), ("a", "b-c")),
        (("n" * 63, "one"), ("n" * 63, "two")),
    ],
)
def test_each_release_of_each_namespace_is_a_deployment_of_its_own(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    first, second = (_settings(render(namespace=name, release=release).objects) for name, release in (one, other))
    assert first.redis_prefix != second.redis_prefix
    assert first.s3_prefix != second.s3_prefix


@pytest.mark.parametrize("deployment", ["", "night", "tessera"])
def test_render_pods_are_selected_by_their_network_policy_and_nothing_else(deployment: str) -> None:
    objects = render({**DEV, "deployment": deployment}, release="night").objects
    settings = _settings(objects)
    job = job_manifest(_attempt(settings), pod_settings(settings), settings)
    labels = job["spec"]["template"]["metadata"]["labels"]
    selecting = {name for name, selector in _selectors(objects).items() if _selected(selector, labels)}
    assert selecting == {"NetworkPolicy/night-tessera-pods"}


def test_the_workers_policy_selects_all_pods_of_the_chart_but_valkey(fullest: list[Object]) -> None:
    selector = _selectors(fullest)["NetworkPolicy/studio-renders-workers"]
    unselected = {name for name, metadata, _ in pods(fullest) if not _selected(selector, metadata["labels"])}
    assert unselected == {"StatefulSet/studio-renders-valkey"}


@pytest.mark.parametrize("release", ["tessera", "x", "x" * 53, "a-tessera-b", "a.b", "0" * 53])
def test_long_and_strange_release_names_make_valid_names(release: str) -> None:
    objects = render({**DEV, **CLAIM}, release=release, namespace="n" * 63).objects
    for one in objects:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", one["metadata"]["name"])
        # Names of a Job's pods end in a dash and five characters, and are labels' values.
        assert len(one["metadata"]["name"]) <= 63 - 6
    assert len(_settings(objects).redis_prefix) <= 40


def test_names_that_are_cut_stay_apart() -> None:
    names = {next(iter(of_kind(render(release="x" * 52 + end).objects, "ConfigMap"))) for end in ("1", "2")}
    assert len(names) == 2


def test_users_variables_and_volumes_join_the_charts(fullest: list[Object]) -> None:
    spec = of_kind(fullest, "Deployment")["studio-renders-render-worker"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["env"] == [
        {"name": "AWS_CA_BUNDLE", "value": "/etc/ca/ca.crt"},
        {"name": "HOME", "value": "/var/home"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ]
    assert [volume["name"] for volume in spec["volumes"]] == ["ca", "home", "scratch"]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert spec["securityContext"]["runAsUser"] == 10001


def test_a_warm_up_from_the_hub_runs_the_engines_image_with_the_token_of_the_secret() -> None:
    hub = {"repository": "studio/xl", "revision": "4" * 40, "folder": "xl", "existingSecret": "hub-token"}
    objects = render({**CLAIM, "weights": {"claim": {"create": True}, "warmUp": {"hub": hub}}}).objects
    (job,) = of_kind(objects, "Job").values()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "tessera-engine" in container["image"]
    arguments = container["command"][4:]
    assert arguments == ["--repository", "studio/xl", "--revision", "4" * 40, "--target", "/models/xl", "--check"]
    environment = {one["name"]: one for one in container["env"]}
    assert environment["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub-token", "key": "HF_TOKEN"}}
    assert environment["HF_HUB_OFFLINE"]["value"] == "0"
    assert "/models" in {one["mountPath"] for one in container["volumeMounts"]}


def test_a_warm_up_may_have_what_other_pods_have_and_keeps_its_own(fullest: list[Object]) -> None:
    (job,) = of_kind(fullest, "Job").values()
    template = job["spec"]["template"]
    labels, spec = template["metadata"]["labels"], template["spec"]
    assert (labels["azure.workload.identity/use"], labels["app.kubernetes.io/component"]) == ("true", "warm-up")
    assert template["metadata"]["annotations"]["example.com/owner"] == "studio"
    assert spec["tolerations"] == [{"key": "storage", "operator": "Exists"}]
    (container,) = spec["containers"]
    assert {"name": "AWS_CA_BUNDLE", "value": "/etc/ca/ca.crt"} in container["env"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/etc/ca", "/models", "/tmp"}  # noqa: S108
    assert [volume["name"] for volume in spec["volumes"]] == ["ca", "models", "scratch"]


def test_another_warm_up_is_another_job_and_another_setting_is_none() -> None:
    def names(source: str, **settings: Any) -> tuple[str, str]:
        values = {**CLAIM, "weights": {"claim": {"create": True}, "warmUp": {"source": source}}, "settings": settings}
        objects = render(values).objects
        (config,) = of_kind(objects, "ConfigMap").values()
        pod = json.loads(config["data"]["TESSERA_POD"])
        return next(iter(of_kind(objects, "Job"))), pod["models_job"]

    models = {"sdxl": {"path": "/models/sdxl", "revision": "1"}}
    first = names("models/", models=models)
    assert first[0] == first[1]
    assert names("models/", models=models, gpus=4) == first
    assert names("other/", models=models) != first
    assert names("models/", models=models | {"more": {"path": "/models/more", "revision": "1"}}) != first
