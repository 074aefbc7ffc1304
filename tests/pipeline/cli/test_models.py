"""`tessera model` turns files into settings, and says what is wrong with the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import main
from pipeline.deployment.settings import load_part
from pipeline.deployment.settings.rendering import RenderingSettings
from tests.checkpoints import full_size, single_file, sparse

DEMO = Path(__file__).parents[3] / "models" / "demo"


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place without a local stack."""
    monkeypatch.setenv("TESSERA_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def _run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(one) for one in arguments])
    assert end.value.code == code


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_what_is_printed_is_a_setting_that_can_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = single_file(DEMO, folder / "Demo XL.safetensors")
    _run("model", "add", path, "--config", DEMO, "--native-px", 256, "--recipe", "lcm", "--steps", 6, "--json")
    shown = _json(capsys)
    models = load_part(RenderingSettings, {"TESSERA_MODELS": json.dumps(shown["models"])}).models
    source = models["demo-xl"]
    assert (source.path, source.native_px, source.recipe) == (str(path), 256, "lcm")
    assert source.defaults is not None
    assert source.defaults.values() == {"steps": 6}
    assert source.sha256 is not None
    assert (source.revision, shown["autov2"]) == (source.sha256[:16], source.sha256[:10])
    _run("model", "add", path, "--config", DEMO)
    assert 'settings:\n  models:\n    "demo-xl": {' in capsys.readouterr().out


def test_a_local_stacks_folder_keeps_what_is_added(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data").mkdir()
    _run("model", "add", DEMO, "--id", "own", "--native-px", 256)
    _run("model", "list")
    assert "own" in capsys.readouterr().out.splitlines()[-1]
    page = folder / "page.safetensors"
    page.write_text("<!doctype html>")
    stored = json.loads((folder / "data" / "models.json").read_text())
    stored["models"]["page"] = {"path": str(page), "revision": "1"}
    (folder / "data" / "models.json").write_text(json.dumps(stored))
    _run("model", "check", "--json", code=3)
    results = _json(capsys)
    assert (results["own"]["ok"], results["page"]["ok"]) == (True, False)
    assert "it is a web page" in results["page"]["found"][0]
    _run("model", "check", "page", code=4)
    _run("model", "check", "nobody", code=2)


def test_a_folder_of_one_variant_is_added_with_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"):
        (folder / "m" / part).mkdir(parents=True)
        for path in (DEMO / part).iterdir():
            (folder / "m" / part / path.name.replace(".safetensors", ".fp16.safetensors")).write_bytes(
                path.read_bytes()
            )
    (folder / "m" / "model_index.json").write_bytes((DEMO / "model_index.json").read_bytes())
    _run("model", "add", folder / "m", "--json")
    assert _json(capsys)["models"]["m"]["variant"] == "fp16"


@pytest.mark.parametrize(
    ("name", "message"), [("model.ckpt", "is a pickle"), ("missing.safetensors", "is not there"), ("", "a UNet")]
)
def test_a_wrong_file_is_refused_with_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    if name == "model.ckpt":
        (folder / name).write_bytes(b"\x80\x02}q")
    elif not name:
        name, message = "vae.safetensors", "it is a VAE alone"
        sparse(folder / name, {"decoder.conv_in.weight": (1,)})
    _run("model", "add", folder / name, code=2)
    assert message in capsys.readouterr().err


def test_a_refiner_beside_its_base_is_checked_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = full_size(folder / "base.safetensors", dtype="F8_E4M3")
    _run("model", "add", DEMO, "--refiner", base, code=2)
    assert "a refiner wanted here" in capsys.readouterr().err
