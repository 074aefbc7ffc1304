"""One picture without a stack: its row and what it begins with are files, and so is what became of it."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distri.ranks.mesh import Mesh
from distri.ranks.spans import Spans
from distri.run.shard import render_shard
from distri.run.standalone import StandaloneLeader
from distri.sampling.control import Control
from embedded.stack_settings import standalone_settings
from pipeline.bucket.imagefile import record_in
from pipeline.deployment.model_check import source_of
from pipeline.deployment.model_file import add_model
from pipeline.errors import StoreUnavailable
from pipeline.input_picture import InputPicture
from pipeline.records.results import FailureCode, ImageFailure, ImageResult
from pipeline.records.shards import ShardLine, shard_bytes
from pipeline.records.standalone import PictureFolder
from tests.factories import attempt_spec, job_record, resolved_row


def _leader(folder: Path, **row: Any) -> StandaloneLeader:
    (folder / "shard.jsonl").write_bytes(shard_bytes([ShardLine(resolved_row(0, **row), 0, 1)]))
    return StandaloneLeader(attempt_spec(job_record()), PictureFolder(folder))


def _render(folder: Path, model_dir: Path, leader: StandaloneLeader) -> Any:
    add_model(folder, "own", source_of(model_dir))
    settings = standalone_settings(folder, {"TESSERA_GPUS": "1", "TESSERA_DEVICE": "cpu"})
    spec = attempt_spec(job_record()).model_copy(update={"device": "cpu", "dtype": "float32", "gpus": 1})
    render_shard(Mesh.single(), leader, spec, settings, Spans())
    return PictureFolder(folder).outcome


def test_a_picture_is_written_with_its_record_and_then_its_outcome(tmp_path: Path, model_dir: Path) -> None:
    leader = _leader(tmp_path, model="own", width=64, height=64, steps=2)
    outcome = _render(tmp_path, model_dir, leader)
    assert isinstance(outcome, ImageResult)
    body = (tmp_path / "image").read_bytes()
    assert (outcome.sha256, outcome.size_bytes) == (hashlib.sha256(body).hexdigest(), len(body))
    assert record_in(body) == outcome.model_copy(update={"sha256": "", "size_bytes": 0})
    assert Image.open(io.BytesIO(body)).size == (64, 64)
    assert list(leader.outcomes.values()) == [outcome]


@pytest.mark.parametrize("found", [None, "another size"])
def test_a_picture_to_begin_with_that_is_not_there_is_a_failure_of_its_own(
    tmp_path: Path, model_dir: Path, found: str | None
) -> None:
    picture = InputPicture(sha256="0" * 64, width=64, height=64, name="a.png")
    if found:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{picture.sha256}.png")
    leader = _leader(tmp_path, model="own", width=64, height=64, steps=2, image=picture, strength=0.5)
    outcome = _render(tmp_path, model_dir, leader)
    assert isinstance(outcome, ImageFailure)
    assert outcome.code is FailureCode.INPUT_LOST


def test_one_that_is_to_stop_renders_nothing_and_one_without_a_row_says_so(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"shard\.jsonl cannot be read: No such file"):
        StandaloneLeader(attempt_spec(job_record()), PictureFolder(tmp_path)).begin()
    leader = _leader(tmp_path, model="own", width=64, height=64, steps=2)
    leader.stop("asked to end")
    assert leader.control() is Control.STOP
    assert _render(tmp_path, model_dir, leader) is None
