"""Weights copied from the bucket once a node, checked, and never half there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from safetensors.numpy import save_file

from k8s.inventory import BadWeights
from k8s.weights import check_models, fetch, main, note_bases
from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.settings import EmbeddingSource, LoraSource, ModelSource, Settings
from pipeline.errors import StoreUnavailable
from pipeline.promptset.fields.row import Options
from pipeline.promptset.formats.source import Source
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.listed_files import LISTED_FILES, ListedFiles
from pipeline.schema import read_record
from tasks.process.known_bases import KnownBases

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
    assert fetch(artifacts, "models/demo/", tmp_path) == 1
    assert (tmp_path / "model_index.json").read_bytes() == b'{"new": 1}'


def test_what_is_there_is_judged_by_files_and_checksums(artifacts: Artifacts, tmp_path: Path) -> None:
    _publish(artifacts, FILES)
    fetch(artifacts, "models/demo", tmp_path)
    weights = tmp_path / "unet/weights.safetensors"
    weights.unlink()
    assert fetch(artifacts, "models/demo", tmp_path) == 1
    weights.write_bytes(b"cut")
    assert fetch(artifacts, "models/demo", tmp_path) == 1
    assert weights.read_bytes() == FILES["unet/weights.safetensors"]
    was = weights.stat()
    weights.write_bytes(b"\1" * was.st_size)  # rotten, and looks the same
    os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert fetch(artifacts, "models/demo", tmp_path) == 0
    assert fetch(artifacts, "models/demo", tmp_path, read=True) == 1
    assert weights.read_bytes() == FILES["unet/weights.safetensors"]


def test_files_that_somebody_else_put_there_are_not_copied_again(artifacts: Artifacts, tmp_path: Path) -> None:
    _publish(artifacts, FILES)
    for name, body in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    assert fetch(artifacts, "models/demo", tmp_path) == 0


def test_a_file_that_is_not_what_the_list_says_is_refused_and_not_taken_for_complete(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    _publish(artifacts, FILES, listed=FILES | {"unet/weights.safetensors": b"other"})
    with pytest.raises(BadWeights, match="has checksum"):
        fetch(artifacts, "models/demo", tmp_path)
    assert not (tmp_path / "unet/weights.safetensors").exists()
    _publish(artifacts, FILES)
    assert fetch(artifacts, "models/demo", tmp_path) == 1  # the other one is there


SUM = "0" * 64


@pytest.mark.parametrize(
    "lines",
    [
        b"nonsense",
        f"{SUM}  ../../etc/passwd".encode(),
        f"{SUM}  /etc/passwd".encode(),
        f"{SUM}  unet/../../passwd".encode(),
        f"{SUM}  unet\\..\\passwd".encode(),
        f"{SUM}  unet/\x1b[2Jpasswd".encode(),
        f"{SUM}  {'x' * 2000}".encode(),
        f"{SUM}  ./".encode(),
        SUM.encode() + b"  \xff\xfe",
        f"{SUM}  .complete".encode(),
        f"{SUM}  ./.lock".encode(),
        f"{SUM}  unet\n{SUM}  unet/weights".encode(),
        f"{SUM}  unet/weights.part\n{SUM}  unet/weights".encode(),
        f"{SUM}  unet\n{'1' * 64}  ./unet".encode(),
    ],
)
def test_a_list_that_leads_elsewhere_or_into_itself_is_refused(
    artifacts: Artifacts, tmp_path: Path, lines: bytes
) -> None:
    artifacts.put("models/demo/SHA256SUMS", lines, content_type="text/plain")
    with pytest.raises(BadWeights, match="SHA256SUMS"):
        fetch(artifacts, "models/demo", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_names_that_real_models_have_are_copied(artifacts: Artifacts, tmp_path: Path) -> None:
    names = [".gitattributes", "./.cache/huggingface/download", "loras/水墨 (v1.2, +1).safetensors", "a//b", "..x"]
    files = {str(PurePosixPath(name)): name.encode() for name in names}
    _publish(artifacts, files, listed={name: name.encode() for name in names})
    assert fetch(artifacts, "models/demo", tmp_path) == len(names)
    assert {name: (tmp_path / name).read_bytes() for name in files} == files


def test_a_volume_that_cannot_be_written_is_said_in_a_line(
    artifacts: Artifacts,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _publish(artifacts, {"unet": b"0"})
    (tmp_path / "unet").mkdir()
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert main(["--source", "models/demo", "--target", str(tmp_path)]) == 1
    assert re.fullmatch(r"weights: .*Is a directory.*\n", capsys.readouterr().err)


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


def test_the_bases_of_listed_files_are_left_in_the_bucket(
    artifacts: Artifacts, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lora(name: str, width: int) -> LoraSource:
        save_file({"unet.x.attn2.to_k.lora_A.weight": np.zeros((2, width), np.float32)}, tmp_path / name)
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        return LoraSource(path=str(tmp_path / name), sha256=digest)

    (tmp_path / "page").write_text("<html>")
    save_file({"emb_params": np.zeros((3, 1024), np.float32)}, tmp_path / "dark")
    dark = hashlib.sha256((tmp_path / "dark").read_bytes()).hexdigest()
    loras = {
        "old": lora("old", 768),
        "right": lora("right", 2048),
        "other": lora("other", 1024).model_copy(update={"sha256": "0" * 64}),
        "page": LoraSource(path=str(tmp_path / "page"), sha256="1" * 64),
        "absent": LoraSource(path=str(tmp_path / "absent"), sha256="2" * 64),
        "elsewhere": LoraSource(path="/nowhere/lora", sha256="3" * 64),
    }
    embeddings = {"dark": EmbeddingSource(path=str(tmp_path / "dark"), sha256=dark)}
    own = settings.model_copy(update={"loras": loras, "embeddings": embeddings, "models": {}})
    _publish(artifacts, FILES)
    for name, value in own.environment().items():
        monkeypatch.setenv(name, value)
    assert main(["--source", "models/demo", "--target", str(tmp_path), "--check"]) == 0
    body = artifacts.get(LISTED_FILES)
    assert body is not None
    found = read_record(ListedFiles, body, what=LISTED_FILES).bases
    assert found == {loras["old"].sha256: "SD 1.x", loras["right"].sha256: "SDXL", dark: "SD 2.x"}


@pytest.mark.parametrize(
    ("tensor", "base"),
    [
        (("unet.x.attn2.to_k.lora_A.weight", (2, 768)), "SD 1.x"),
        (("lora_unet_x_attn2_to_k.hada_w1_b", (2, 1024)), "SD 2.x"),
        (("transformer.joint_blocks.0.x.lora_A.weight", (2, 64)), "SD 3"),
        (("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", (2, 64)), "Flux"),
        (("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", (2, 64)), "Flux"),
        (("diffusion_model.blocks.0.cross_attn.k.lora_A.weight", (2, 64)), "Wan"),
    ],
)
def test_a_lora_for_another_base_is_refused_where_rows_are_checked_who_cannot_see_its_file(
    artifacts: Artifacts, settings: Settings, tmp_path: Path, tensor: tuple[str, tuple[int, int]], base: str
) -> None:
    key, shape = tensor
    save_file({key: np.zeros(shape, np.float32)}, tmp_path / "other.safetensors")
    digest = hashlib.sha256((tmp_path / "other.safetensors").read_bytes()).hexdigest()
    listed = {"other": LoraSource(path=str(tmp_path / "other.safetensors"), sha256=digest)}
    models = {"sdxl": ModelSource(path="/nowhere/sdxl", revision="1")}
    own = settings.model_copy(update={"loras": listed, "models": models, "default_model": "sdxl"})
    note_bases(artifacts, own, tmp_path)  # by the warm-up, in the cluster
    (tmp_path / "other.safetensors").unlink()
    announced = Deployment.of(own, "1", KnownBases().of(artifacts).bases)  # by the controller, and read by the client
    found = Validation("rows")
    rows = [(1, {"prompt": "a", "loras": "other:0.5"}), (2, {"prompt": "a <lora:other:1>", "syntax": "a1111"})]
    assert list(resolved_rows(Source("rows", iter(rows)), Options(), announced, found, batch_seed=1)) == []
    refused = f"'other' was made for {base}, not for SDXL; a row without it wanted"
    assert [(error.line, error.field, error.message) for error in found.errors] == [
        (1, "loras", refused),
        (2, "loras", refused),
    ]
