"""The digest of a model follows its settings, how a pod loads it, and its files as far as this machine has them."""

from __future__ import annotations

from pathlib import Path

from pipeline.deployment.settings import ModelSource
from tasks.process.model_digests import ModelDigests
from tests.factories import MODELS

HOW = ("image", 1, "1x1x1", False, "cpu", "float32", "float32")


def test_files_are_looked_at_again_once_the_digest_is_old(tmp_path: Path) -> None:
    file = tmp_path / "unet" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"good")
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    source = ModelSource.model_validate(MODELS["demo"] | {"path": str(tmp_path)})
    kept, fresh = ModelDigests(fresh_s=float("inf")), ModelDigests(fresh_s=0)
    before = kept.of("demo", source, HOW)
    assert before == fresh.of("demo", source, HOW)
    file.write_bytes(b"corrected")
    assert kept.of("demo", source, HOW) == before
    assert fresh.of("demo", source, HOW) != before


def test_another_way_to_load_a_model_is_another_digest_at_once() -> None:
    known, source = ModelDigests(fresh_s=float("inf")), ModelSource.model_validate(MODELS["demo"])
    ways = (HOW, ("image", 2, *HOW[2:]))
    assert len({known.of(name, source, how) for name in ("demo", "other") for how in ways}) == 4
    assert known.of("gone", None, HOW) == known.of("gone", None, HOW)
