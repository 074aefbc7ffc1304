"""Valid values of our own types, each with what a test does not care about filled in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.bucket.imagefile import ImageFile, image_file
from pipeline.deployment.allowed import AllowedModel
from pipeline.deployment.announcement import SYNTAXES, Deployment
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.records.attempt import AttemptSpec
from pipeline.records.batch import BatchManifest, BatchRecord, JobRecord
from pipeline.records.object_keys import BatchObjects
from pipeline.records.provenance import Provenance
from pipeline.records.results import ImageResult, result_of
from pipeline.records.shards import ImageTask

INCARNATION = "1234abcd"  # of the batches and jobs made here
MODELS = {"demo": {"path": "models/demo", "revision": "r1", "native_px": 256}}


def at(seconds: float = 0) -> datetime:
    """A moment, so many seconds after a fixed one."""
    return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=seconds)


def noise(width: int, height: int) -> Image.Image:
    """A picture of noise, the same whenever it is asked for."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def deployment(**changes: Any) -> Deployment:
    values: dict[str, Any] = {
        "version": "0",
        "models": {"demo": AllowedModel(revision="r1", native_px=256)},
        "default_model": "demo",
        "max_megapixels": 4.0,
        "max_rows": 1000,
        "syntaxes": SYNTAXES,
        "guidance_intervals": True,
        "displacements": True,
        "settling": True,
        "cascades": True,
        "cascade_guidance": True,
        "highres_attention": "windows",
        "layout": "1x1x2",
    }
    return Deployment(**(values | changes))


def resolved_row(row: int = 0, **changes: Any) -> ResolvedRow:
    values: dict[str, Any] = {
        "row": row,
        "first_image": row,
        "custom_id": f"row-{row + 1}",
        "prompt": "a harbour",
        "negative_prompt": None,
        "seed": 100 + row,
        "num_images": 1,
        "width": 64,
        "height": 64,
        "steps": 2,
        "guidance_scale": 5.0,
        "guidance_rescale": 0.0,
        "model": "demo",
        "metadata": {},
    }
    return ResolvedRow(**(values | changes))


def batch_record(batch_id: str = "b", images: int = 4, **changes: Any) -> BatchRecord:
    values: dict[str, Any] = {
        "id": batch_id,
        "incarnation": INCARNATION,
        "tenant": "default",
        "priority": 5,
        "created_at": at(),
        "rows": images,
        "images": images,
        "seed": 7,
        "staged": "t0",
        "input_sha256": "0" * 64,
        "defaults": {},
        "client_version": "0",
    }
    return BatchRecord(manifest=BatchManifest(**(values | changes)), updated_at=at())


def job_record(batch_id: str = "b", index: int = 0, **changes: Any) -> JobRecord:
    values: dict[str, Any] = {
        "batch_id": batch_id,
        "incarnation": INCARNATION,
        "index": index,
        "tenant": "default",
        "priority": 5,
        "created_at": at(),
        "updated_at": at(),
        "images": 1,
    }
    return JobRecord(**(values | changes))


def attempt_spec(job: JobRecord, number: int = 1, **changes: Any) -> AttemptSpec:
    values: dict[str, Any] = {
        "name": f"tessera-{job.incarnation}-{job.index:05d}-{number}",
        "batch_id": job.batch_id,
        "incarnation": job.incarnation,
        "job_index": job.index,
        "number": number,
        "token": f"token-{number}",
        "image": "local",
        "gpus": 2,
        "layout": "1x1x2",
        "exact": False,
        "warmup_steps": 1,
        "device": "cpu",
        "dtype": "float32",
        "shard_key": BatchObjects(job.batch_id).shard(job.index),
        "deadline_s": 60.0,
    }
    return AttemptSpec(**(values | changes))


def image_result(task: ImageTask, batch_id: str = "b", *, attempt: int = 1) -> ImageResult:
    """What a pod knows of an image before its file is made."""
    provenance = Provenance(
        model_revision="r1",
        layout="1x1x2",
        ranks=2,
        exact=False,
        warmup_steps=1,
        device="cpu",
        dtype="float32",
        attempt=attempt,
        versions={"tessera-render": "0"},
    )
    return result_of(task, BatchObjects(batch_id), provenance, 0.5)


def file_of(result: ImageResult, shade: int = 0) -> ImageFile:
    """The file of an image whose pixels are a gradient; another shade is another picture."""
    rows = np.arange(result.height, dtype=np.uint8)[:, None, None]
    pixels = np.broadcast_to(rows + np.uint8(shade), (result.height, result.width, 3))
    return image_file(np.ascontiguousarray(pixels), result)


def prompts_file(path: Path, rows: Iterable[Mapping[str, Any] | str | bytes]) -> Path:
    """A JSON Lines file; texts and bytes are lines as they stand."""
    lines = (
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in rows
    )
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
