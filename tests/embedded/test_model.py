"""Which demo model a data folder gets."""

import os
from pathlib import Path

from embedded.model import (
    CONTROLNETS,
    IP_ADAPTERS,
    await_demo_model,
    beside_demo,
    demo_model,
    start_demo_model,
)
from pipeline.checkpoints.hashes import folder_revision

ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def _trained(folder: Path, weights: bytes) -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(weights)
    return folder


def test_a_trained_model_of_the_checkout_is_taken_as_it_is(tmp_path: Path) -> None:
    trained = _trained(tmp_path / "trained", b"learnt")
    assert start_demo_model(tmp_path, ENVIRONMENT, trained=trained) is None
    assert folder_revision(demo_model(tmp_path)) == folder_revision(trained)


def test_a_folder_keeps_the_model_that_it_has(tmp_path: Path) -> None:
    start_demo_model(tmp_path, ENVIRONMENT, trained=_trained(tmp_path / "first", b"first"))
    start_demo_model(tmp_path, ENVIRONMENT, trained=_trained(tmp_path / "second", b"second"))
    assert folder_revision(demo_model(tmp_path)) == folder_revision(tmp_path / "first")


def test_without_a_trained_model_one_with_random_weights_is_made(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    child = start_demo_model(tmp_path, ENVIRONMENT, trained=tmp_path / "nothing")
    assert child is not None
    await_demo_model(child, tmp_path, 250, lambda: False)
    assert (demo_model(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_what_lies_beside_the_model_belongs_to_the_one_that_it_was_trained_for_alone(tmp_path: Path) -> None:
    trained, other = _trained(tmp_path / "models" / "demo", b"learnt"), _trained(tmp_path / "other", b"random")
    assert beside_demo(CONTROLNETS, folder_revision(trained), trained=trained) == {}
    weights = tmp_path / "models" / "canny" / "diffusion_pytorch_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"edges")
    assert beside_demo(CONTROLNETS, folder_revision(trained), trained=trained) == {"canny": weights}
    assert beside_demo(IP_ADAPTERS, folder_revision(trained), trained=trained) == {}
    assert beside_demo(CONTROLNETS, folder_revision(other), trained=trained) == {}
    assert beside_demo(CONTROLNETS, folder_revision(other), trained=tmp_path / "nothing") == {}
