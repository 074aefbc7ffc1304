"""Write what the chart repeats of other places: README.md from values.yaml, the program's part of the values' schema.

`python -m helm.generate` from the repository's root; a test compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from k8s.pod import PodSettings
from pipeline.deployment.settings import Settings
from pipeline.records.schedules.schedule import ScheduleSpec

CHART = Path(__file__).parent / "tessera"

# Settings that follow from other values of the chart, or that a pod has no use for.
NOT_IN_SETTINGS = frozenset(
    {
        "redis_url",
        "redis_ca",
        "redis_cert",
        "redis_key",
        "redis_prefix",
        "image",
        "pod",
        "launcher",
        "data_dir",
        "webhook_key",
        "warm_s",
    }
    | {"s3_endpoint", "s3_region", "s3_bucket", "s3_prefix", "metrics_port", "schedules"}
)
NOT_IN_POD = frozenset(
    {"namespace", "service_account", "image_pull_secrets", "image_pull_policy", "env_from_secrets"}
    | {"redis_ca_secret", "redis_client_secret"}
)

# Helm reads every number as a float, which has each whole one up to here.
LARGEST_NUMBER = 2**53 - 1

# Those whose absence Kubernetes understands.
MAY_BE_NULL = frozenset({"replicas", "resources"})

_KEY = re.compile(r"( *)([A-Za-z]\w*):")
_DOC = re.compile(r" *# -- (.*)")
_MORE = re.compile(r" *# ?(.*)")


def documented(text: str) -> Iterator[tuple[str, str]]:
    """Path and explanation of every value under a `# --` comment."""
    path: list[tuple[int, str]] = []
    words: list[str] | None = None
    for line in text.splitlines():
        if match := _DOC.fullmatch(line):
            words = [match[1]]
        elif words is not None and (match := _MORE.fullmatch(line)):
            words.append(match[1])
        elif match := _KEY.match(line):
            indent = len(match[1])
            path = [*(one for one in path if one[0] < indent), (indent, match[2])]
            if words is not None:
                yield ".".join(name for _, name in path), " ".join(words)
            words = None


def at(values: Any, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        values = values[name]
    return values


def readme() -> str:
    """The chart's README.md."""
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    rows = [(path, json.dumps(at(values, path)), words) for path, words in documented(text)]
    return "\n".join(
        [
            "# The chart `tessera`",
            "",
            chart["description"],
            "docs/cluster.md is the way from nothing to the first render. This page is written by `helm/generate.py`.",
            "",
            f"Kubernetes {chart['kubeVersion'].removesuffix('-0')}, Helm 4. Required: a registry, a bucket, and one of",
            "`redis.existingSecret`, `redis.url` and `valkey.enabled`. Without `settings.models` nothing renders.",
            "",
            "## Values",
            "",
            *_table(rows),
            "",
            "## Render pods: `pod`",
            "",
            "Those of docs/pod.md by name, except what the chart sets from other values: "
            + ", ".join(f"`{name}`" for name in sorted(NOT_IN_POD))
            + ".",
            "",
            "## Settings: `settings`",
            "",
            "Those of docs/settings.md by name, except what the chart sets from other values: "
            + ", ".join(f"`{name}`" for name in sorted(NOT_IN_SETTINGS))
            + ".",
            "",
        ]
    )


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    return [
        "| value | default | meaning |",
        "|---|---|---|",
        *(f"| `{path}` | `{cell(default)}` | {cell(words)} |" for path, default, words in rows),
    ]


def schema() -> str:
    """values.schema.json with what follows from values.yaml, and the definitions from the program's own types."""
    whole = json.loads((CHART / "values.schema.json").read_text())
    nothing: frozenset[str] = frozenset()
    for model, left_out in ((Settings, NOT_IN_SETTINGS), (PodSettings, NOT_IN_POD), (ScheduleSpec, nothing)):
        own = model.model_json_schema(ref_template="#/$defs/{model}")
        parts = own.pop("$defs", {}) | {model.__name__: own}
        own["properties"] = {name: value for name, value in own["properties"].items() if name not in left_out}
        if left_out:
            own.pop("required", None)
        whole["$defs"] |= {name: _plain(part) for name, part in parts.items()}
    _require(whole, yaml.safe_load((CHART / "values.yaml").read_text()))
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _require(part: dict[str, Any], values: dict[str, Any]) -> None:
    """Have a null refused by name where it would take away what templates need: it stands for what is empty alone."""
    needed = {name for name, value in values.items() if (value or value is False) and name not in MAY_BE_NULL}
    if names := sorted(needed.union(part.get("required", ()))):
        part["required"] = names
    for name in needed:
        if isinstance(values[name], dict):
            _require(part["properties"][name], values[name])


def _plain(part: Any) -> Any:
    """A schema without what only repeats names and defaults, and without numbers that Helm would change."""
    if isinstance(part, dict):
        repeated = {"title", "default"}
        if part.get("maximum", 0) > LARGEST_NUMBER:
            part = part | {"maximum": LARGEST_NUMBER}
        return {
            name: {key: _plain(one) for key, one in value.items()} if name == "properties" else _plain(value)
            for name, value in part.items()
            if name not in repeated
        }
    return [_plain(one) for one in part] if isinstance(part, list) else part


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
    (CHART / "values.schema.json").write_text(schema())
