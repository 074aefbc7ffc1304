"""Values: all explained, all read, and refused by name when they are wrong."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from helm import generate
from tests.helm.chart import CHART, VALUES, of_kind, render, run_helm

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = jsonschema.Draft202012Validator(json.loads((CHART / "values.schema.json").read_text()))
DOCUMENTED = dict(generate.documented((CHART / "values.yaml").read_text()))

HUB = {"repository": "studio/xl", "revision": "4" * 40, "folder": "xl"}

RESOURCES = {"requests", "limits"}


def _leaves(values: Any, path: str = "") -> Iterator[str]:
    """Paths of what is no mapping, of empty mappings, and of resources as a whole."""
    if isinstance(values, dict) and values and not values.keys() <= RESOURCES:
        for name, value in values.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    else:
        yield path


LEAVES = list(_leaves(DEFAULTS))
SWITCHES = [path for path in LEAVES if isinstance(generate.at(DEFAULTS, path), bool)]


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *folders, name = path.split(".")
    for folder in folders:
        values = values.setdefault(folder, {})
    values[name] = value


def _other(path: str) -> Any:
    """Another value of the same kind."""
    default = generate.at(DEFAULTS, path)
    inner = {"name": "other"} if "Volume" in path else "other"
    if isinstance(default, int):
        return default + 7
    if isinstance(default, dict):
        return {"requests": {"other": "7"}} if default.keys() & RESOURCES else {"other": inner}
    if isinstance(default, list):
        return [{"other": "other"}] if path == "networkPolicy.egress" else ["other"]
    return f"other{default}"


@functools.cache
def _rendered(text: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        answer = run_helm("template", "t", str(CHART), "--skip-schema-validation", "--values", file.name)
    assert answer.code == 0, answer.complaint
    return answer.text


def _unchecked(values: dict[str, Any]) -> str:
    """The rendering of values that the schema would refuse."""
    return _rendered(yaml.safe_dump(values))


def _everything_on(path: str) -> dict[str, Any]:
    """Values that have every template render, and do not overrule the value at `path`."""
    values: dict[str, Any] = {"s3": {"bucket": "renders"}, "redis": {"url": "redis://redis"}}
    for name in ("image", "engineImage"):
        _put(values, f"{name}.registry", "registry.example.com")
    for switch in SWITCHES:
        _put(values, switch, switch != "valkey.enabled")
    _put(values, "weights.warmUp.source", "models/")
    _put(values, "api.ingress.host", "render.example.com")
    _put(values, "api.gateway.name", "public")
    if path.startswith("weights.warmUp.hub"):
        _put(values, "weights.warmUp", {"source": "", "hub": dict(HUB)})
    if path == "redis.existingSecret":
        values["redis"] = {"url": ""}
    if path.startswith("valkey"):
        values |= {"redis": {"url": ""}, "valkey": {"enabled": True, "password": "correct-horse-battery"}}
    return values


def test_every_value_is_explained() -> None:
    unexplained = [path for path in LEAVES if path not in DOCUMENTED]
    assert unexplained == []
    assert all(len(words) > 10 for words in DOCUMENTED.values())


def test_every_value_is_set_in_the_fullest_values() -> None:
    fullest = yaml.safe_load((VALUES / "fullest.yaml").read_text())
    for path in LEAVES:
        generate.at(fullest, path)


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in SWITCHES])
def test_every_value_is_read_by_a_template(path: str) -> None:
    values = _everything_on(path)
    before = "" if path == "redis.existingSecret" else _unchecked(values)
    _put(values, path, _other(path))
    assert _unchecked(values) != before


@pytest.mark.parametrize("path", SWITCHES)
def test_every_switch_switches(path: str) -> None:
    base: dict[str, Any] = {"pod": {"models_claim": None}, "redis": {"existingSecret": ""}}
    _put(base, "valkey", {"enabled": True, "password": "correct-horse-battery"})
    _put(base, "metrics.enabled", path.startswith("metrics."))
    on_and_off = []
    for value in (True, False):
        values = yaml.safe_load(yaml.safe_dump(base))
        if path == "valkey.enabled" and not value:
            _put(values, "redis.url", "redis://redis:6379/0")
        _put(values, path, value)
        on_and_off.append({(one["kind"], one["metadata"]["name"]) for one in render(values).objects})
    assert on_and_off[0] > on_and_off[1]


def test_the_readme_is_that_of_the_values() -> None:
    assert (CHART / "README.md").read_text() == generate.readme(), "run: python -m helm.generate"


def test_the_schema_is_that_of_the_programs_settings() -> None:
    assert (CHART / "values.schema.json").read_text() == generate.schema(), "run: python -m helm.generate"


NIGHTLY = {"cron": "0 2 * * *", "prompts": "s3://prompts/nightly.jsonl"}

WRONG: list[tuple[str, Any, str]] = [
    ("s3.bucket", "", "/s3/bucket"),
    ("s3.buckett", "x", "'buckett' not allowed"),
    ("s3.endpoint", "s3.example.com", "/s3/endpoint"),
    ("s3.endpoint", "https://key:secret@s3.example.com", "/s3/endpoint"),
    ("s3.prefix", "/renders/", "/s3/prefix"),
    ("redis.url", "redis://:password@redis:6379/0", "/redis/url"),
    ("redis.url", "http://redis", "/redis/url"),
    ("redis.url", "sentinel://sentinel/main?sentinel_password=secret", "/redis/url"),
    ("redis.existingSecret", "No_Name", "/redis/existingSecret"),
    ("deployment", "Studio", "/deployment"),
    ("deployment", "x" * 41, "/deployment"),
    ("image.digest", "sha256:123", "/image/digest"),
    ("image.pullPolicy", "Sometimes", "/image/pullPolicy"),
    ("engineImage.tag", "a b", "/engineImage/tag"),
    ("settings.max_row", 5, "'max_row' not allowed"),
    ("settings.max_rows", "many", "/settings/max_rows"),
    ("settings.max_rows", 0, "/settings/max_rows"),
    ("settings.device", "tpu", "/settings/device"),
    ("settings.redis_url", "redis://x", "'redis_url' not allowed"),
    ("settings.models", {"turbo": {"path": "/models/turbo"}}, "/settings/models/turbo"),
    ("settings.models", {"sdxl": {"path": "/m", "rev": "1"}}, "'rev' not allowed"),
    ("pod.gpus", 8, "'gpus' not allowed"),
    ("pod.service_account", "admin", "'service_account' not allowed"),
    ("pod.grace_s", 5, "/pod/grace_s"),
    ("pod.clocks", {"start": 5}, "'start' not allowed"),
    ("renderWorkers.replicas", -1, "/renderWorkers/replicas"),
    ("renderWorkers.replicas", "2", "/renderWorkers/replicas"),
    ("renderWorkers.extraEnv", [{"name": "A", "value": "b"}], "/renderWorkers/extraEnv"),
    ("renderWorkers.extraEnv", {"A": 1}, "/renderWorkers/extraEnv/A"),
    ("renderWorkers.extraEnv", {"TESSERA_GPUS": "4"}, "/renderWorkers/extraEnv/TESSERA_GPUS"),
    ("renderWorkers.podSpec", {"containers": []}, "/renderWorkers/podSpec/containers"),
    ("renderWorkers.extraVolumeMounts", {"/ca": {}}, "/renderWorkers/extraVolumeMounts"),
    ("controller.resource", {}, "'resource' not allowed"),
    ("enabled", True, "enabled: found; it is read by a chart that has this one as a dependency"),
    ("api.redisExistingSecret", "No_Name", "/api/redisExistingSecret"),
    ("api.ingress.host", "https://render.example.com", "/api/ingress/host"),
    ("api.ingress.tlsSecret", "a b", "/api/ingress/tlsSecret"),
    ("api.gateway.hostname", "render.example.com/page", "/api/gateway/hostname"),
    ("api.gateway.name", "Public", "/api/gateway/name"),
    ("renderWorkers.extraVolumes", {"CA_bundle": {"emptyDir": {}}}, "/renderWorkers/extraVolumes'"),
    ("api.extraVolumes", {"CA_bundle": {"emptyDir": {}}}, "/api/extraVolumes'"),
    ("weights.warmUp.extraEnv", {"TESSERA_GPUS": "4"}, "/weights/warmUp/extraEnv/TESSERA_GPUS"),
    ("weights.warmUp.podSpec", {"containers": []}, "/weights/warmUp/podSpec/containers"),
    ("beat.replicas", 2, "/beat/replicas"),
    ("networkPolicy.egress", {}, "/networkPolicy/egress"),
    ("weights.claim.size", "big", "/weights/claim/size"),
    ("weights.claim.accessModes", [], "/weights/claim/accessModes"),
    ("weights.warmUp.source", "../models", "/weights/warmUp/source"),
    ("weights.warmUp.hub.revision", "main", "/weights/warmUp/hub/revision"),
    ("weights.warmUp.hub.repository", "https://huggingface.co/x/y", "/weights/warmUp/hub/repository"),
    ("metrics.port", 80, "/metrics/port"),
    ("metrics.serviceMonitor.interval", "often", "/metrics/serviceMonitor/interval"),
    ("settings.metrics_port", 9464, "'metrics_port' not allowed"),
    ("valkey", {"enabled": True}, "/valkey/password"),
    ("valkey", {"enabled": True, "password": "correct horse battery staple"}, "/valkey/password"),
    ("schedules", ["nightly"], "/schedules"),
    ("schedules", {"nightly": {"cron": "0 2 * * *"}}, "missing property 'prompts'"),
    ("schedules", {"nightly": {**NIGHTLY, "cron": "@daily"}}, "/schedules/nightly/cron"),
    ("schedules", {"nightly": {**NIGHTLY, "prompts": "prompts.jsonl"}}, "/schedules/nightly/prompts"),
    ("schedules", {"nightly": {**NIGHTLY, "overlap": "queue"}}, "/schedules/nightly/overlap"),
    ("schedules", {"nightly": {**NIGHTLY, "catchUp": True}}, "'catchUp' not allowed"),
    ("schedules", {"nightly": {**NIGHTLY, "options": {"stepz": 3}}}, "'stepz' not allowed"),
    ("schedules", {"nightly": {**NIGHTLY, "seed": 2**53}}, "/schedules/nightly/seed"),  # Helm would round others
    ("schedules", {"every night": NIGHTLY}, "'every night' not allowed"),
]


@pytest.mark.parametrize(("path", "value", "named"), WRONG)
def test_a_wrong_value_is_refused_by_name(path: str, value: Any, named: str) -> None:
    values: dict[str, Any] = {}
    _put(values, path, value)
    answer = render(values)
    assert answer.code != 0
    assert named in answer.complaint


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"redis": {"existingSecret": ""}}, "redis: none found; exactly one of"),
    ({"redis": {"url": "redis://redis"}}, "redis: redis.existingSecret and redis.url found"),
    ({"image": {"registry": ""}}, "image.registry: none found"),
    ({"weights": {"claim": {"create": True}}}, "weights.claim.create and pod.models_claim found"),
    ({"weights": {"warmUp": {"source": "models/"}}}, "weights.warmUp.source: found without weights.claim.create"),
    ({"weights": {"warmUp": {"hub": HUB}}}, "weights.warmUp.hub: found without weights.claim.create"),
    (
        {"pod": {"models_claim": None}, "weights": {"claim": {"create": True}, "warmUp": {"source": "m/", "hub": HUB}}},
        "weights.warmUp: source and hub.repository found",
    ),
    (
        {
            "pod": {"models_claim": None},
            "weights": {"claim": {"create": True}, "warmUp": {"hub": HUB | {"folder": ""}}},
        },
        "weights.warmUp.hub: revision and folder wanted",
    ),
    *(
        ({"metrics": {part: {"enabled": True}}}, f"metrics.{part}.enabled: found without metrics.enabled")
        for part in ("serviceMonitor", "rules", "dashboard")
    ),
]


@pytest.mark.parametrize(("values", "said"), CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused(values: dict[str, Any], said: str) -> None:
    answer = render(values)
    assert answer.code != 0
    assert said in answer.complaint


def _nodes(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        below = f"{path}.{name}" if path else name
        yield below, value
        if isinstance(value, dict):
            yield from _nodes(value, below)


# What a template or the schema asks for by name where it is empty.
ASKED_FOR = {
    *("image.registry", "engineImage.registry", "redis.existingSecret", "redis.url", "s3.bucket", "valkey.password"),
}
WHOLE = DEFAULTS | {"s3": DEFAULTS["s3"] | {"bucket": "renders"}}
EMPTY = [path for path, value in _nodes(DEFAULTS) if value in ("", [], {}) and path not in ASKED_FOR]
MAY_BE_NULL = [path for path, _ in _nodes(DEFAULTS) if path.rpartition(".")[2] in generate.MAY_BE_NULL]
SAYS_SOMETHING = [
    path
    for path, value in _nodes(DEFAULTS)
    if (value or value is False) and not any(f"{path}.".startswith(f"{null}.") for null in MAY_BE_NULL)
]


def test_a_heading_with_nothing_below_it_is_as_empty_as_the_default() -> None:
    """In a file of values it is null, for which Helm takes the default away."""
    SCHEMA.validate(_without(WHOLE, set(EMPTY)))
    values = _everything_on("")
    before = _unchecked(values)
    for path in EMPTY:
        if path not in ("weights.warmUp.source", "api.ingress.host", "api.gateway.name"):
            _put(values, path, None)
    assert _unchecked(values) == before


def test_null_in_the_place_of_what_templates_need_is_refused() -> None:
    SCHEMA.validate(WHOLE)
    for depth in range(4):
        gone = {path for path in SAYS_SOMETHING if path.count(".") == depth}
        missing = {
            ".".join([*(str(part) for part in error.path), name])
            for error in SCHEMA.iter_errors(_without(WHOLE, gone))
            if error.validator == "required"
            for name in error.validator_value
        }
        assert gone <= missing


def _without(values: dict[str, Any], gone: set[str], path: str = "") -> dict[str, Any]:
    return {
        name: _without(value, gone, f"{path}{name}.") if isinstance(value, dict) else value
        for name, value in values.items()
        if f"{path}{name}" not in gone
    }


def test_null_is_refused_by_the_name_of_what_is_missing() -> None:
    answer = render({"weights": {"warmUp": None}})
    assert "at '/weights': missing property 'warmUp'" in answer.complaint


def test_null_leaves_replicas_to_an_autoscaler_and_resources_to_the_namespace() -> None:
    objects = render({"renderWorkers": {"replicas": None, "resources": None}, "controller": {"replicas": None}}).objects
    specs = {name: one["spec"] for name, one in of_kind(objects, "Deployment").items()}
    assert {name for name, spec in specs.items() if "replicas" in spec} == {"tessera-beat"}
    assert not specs["tessera-render-worker"]["template"]["spec"]["containers"][0]["resources"]


def test_the_guides_values_are_values_of_the_chart() -> None:
    guide = (CHART.parents[1] / "docs" / "cluster.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)]
    assert len(blocks) == 6
    for block in blocks:
        if "engineImage" in block:
            block["engineImage"]["digest"] = "sha256:" + "1" * 64
            _put(block, "pod.models_claim", None)
        assert render(block).code == 0, render(block).complaint
