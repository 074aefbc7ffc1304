"""Weights copied from the bucket once a node, checked, and never half there."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from k8s.weights import BadWeights, check_models, fetch
from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import ModelSource, Settings
from pipeline.errors import StoreUnavailable

FILES = {"model_index.json": b"{}", "unet/weights.safetensors": b"\0" * 1000}


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(settings)


def _publish(artifacts: Artifacts, files: dict[str, bytes], listed: dict[str, bytes] | None = None) -> None:
    for name, body in files.items():
        artifacts.put(f"models/demo/{name}", body, content_type="application/octet-stream")
    lines = [f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in (listed or files).items()]
    artifacts.put("models/demo/SHA256SUMS", "".join(lines).encode(), content_type="text/plain")


def test_files_are_copied_once(artifacts: Artifacts, tmp_path: Path) -> None:
    _publish(artifacts, FILES)
    assert fetch(artifacts, "models/demo", tmp_path) == 2
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
    assert fetch(artifacts, "models/demo", tmp_path) == 0


def test_pods_of_one_node_wait_for_each_other(artifacts: Artifacts, tmp_path: Path) -> None:
    _publish(artifacts, FILES)
    with ThreadPoolExecutor(4) as pool:
        copied = list(pool.map(lambda _: fetch(artifacts, "models/demo", tmp_path), range(4)))
    assert sorted(copied) == [0, 0, 0, 2]


def test_another_revision_replaces_the_copy(artifacts: Artifacts, tmp_path: Path) -> None:
    _publish(artifacts, FILES)
    fetch(artifacts, "models/demo/", tmp_path)
    newer = FILES | {"model_index.json": b'{"new": 1}'}
    _publish(artifacts, newer)
    assert fetch(artifacts, "models/demo/", tmp_path) == 2
    assert (tmp_path / "model_index.json").read_bytes() == b'{"new": 1}'


def test_a_file_that_is_not_what_the_list_says_is_refused_and_not_taken_for_complete(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    _publish(artifacts, FILES, listed=FILES | {"unet/weights.safetensors": b"other"})
    with pytest.raises(BadWeights, match="has checksum"):
        fetch(artifacts, "models/demo", tmp_path)
    assert not (tmp_path / "unet/weights.safetensors").exists()
    _publish(artifacts, FILES)
    assert fetch(artifacts, "models/demo", tmp_path) == 2


@pytest.mark.parametrize("line", ["nonsense", f"{'0' * 64}  ../../etc/passwd", f"{'0' * 64}  /etc/passwd"])
def test_a_list_that_leads_elsewhere_is_refused(artifacts: Artifacts, tmp_path: Path, line: str) -> None:
    artifacts.put("models/demo/SHA256SUMS", line.encode(), content_type="text/plain")
    with pytest.raises(BadWeights, match="SHA256SUMS"):
        fetch(artifacts, "models/demo", tmp_path)


def test_weights_that_are_not_there_are_an_outage_of_the_store(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="SHA256SUMS is not in"):
        fetch(artifacts, "models/absent", tmp_path)


def test_a_wrong_model_is_known_before_a_pod_is(tmp_path: Path) -> None:
    demo = Path(__file__).parents[2] / "models" / "demo"
    shutil.copytree(demo, tmp_path / "demo")
    (tmp_path / "page.safetensors").write_text("<html>")
    models = {
        "demo": ModelSource(path=str(tmp_path / "demo"), revision="1"),
        "elsewhere": ModelSource(path="/nowhere/model", revision="1"),
    }
    assert check_models(models, tmp_path) == 1
    models["page"] = ModelSource(path=str(tmp_path / "page.safetensors"), revision="1")
    with pytest.raises(BadWeights, match=r"model 'page': page.safetensors is no safetensors file: it is a web page"):
        check_models(models, tmp_path)
