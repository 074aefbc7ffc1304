"""Factories for what every test of k8s begins with: a spec, and the settings of a deployment in a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.deployment.settings import Settings, load_settings
from pipeline.names import attempt_name
from pipeline.records.attempt import AttemptSpec

IMAGE = "registry.example/tessera@sha256:" + "0" * 64


def spec_of(job_index: int = 3, number: int = 1, **changes: Any) -> AttemptSpec:
    """A complete spec; two calls with the same arguments give the same one."""
    values: dict[str, Any] = {
        "name": attempt_name("ab12cd34", job_index, number),
        "batch_id": "summer-catalogue",
        "incarnation": "ab12cd34",
        "job_index": job_index,
        "number": number,
        "token": f"token-{job_index}-{number}",
        "image": IMAGE,
        "gpus": 8,
        "layout": "1x2x4",
        "exact": False,
        "warmup_steps": 4,
        "device": "cuda",
        "dtype": "float16",
        "shard_key": "batches/summer-catalogue/shards/00003.jsonl",
        "deadline_s": 3600.0,
    }
    return AttemptSpec(**(values | changes))


def settings_of(pod: dict[str, Any] | None = None, **changes: Any) -> Settings:
    """Settings of a deployment in a cluster."""
    values: dict[str, Any] = {
        "redis_url": "redis://:hunter2@redis.example:6379/0",
        "s3_bucket": "renders",
        "redis_prefix": "studio",
        "image": IMAGE,
        "launcher": "kubernetes",
        "models": {"sdxl": {"path": "/models/sdxl", "revision": "462165984030"}},
        "pod": {"env_from_secrets": ["tessera"]} | (pod or {}),
    }
    return load_settings({}, **(values | changes))


@pytest.fixture
def make_spec() -> Callable[..., AttemptSpec]:
    return spec_of


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    return settings_of
