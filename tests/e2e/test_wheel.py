"""The wheel in a clean environment: a light client that works from a folder with a user's own pipeline.py."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.client.local_stack import running_stack
from tests.e2e.stack import ROOT, User


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, built from the tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    (wheel,) = folder.glob("tessera_render-*.whl")
    return wheel


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts folder of an environment with nothing but the wheel and what its client needs."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=600)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel)], check=True, capture_output=True, timeout=600
    )
    return folder / "bin"


def test_the_wheel_holds_the_packages_the_scripts_and_the_examples(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "pipeline/client/client.py",
        "pipeline/demo.jsonl",
        "pipeline/py.typed",
        "pipeline/ledger/lua/claim.lua",
        "pipeline/outputs/gallery/gallery.css",
        "pipeline/outputs/gallery/gallery.js",
        "pipeline/outputs/gallery/page.html",
        "tasks/worker.py",
        "distri/run/__main__.py",
        "k8s/__init__.py",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_client_pulls_neither_torch_nor_the_kubernetes_client(clean: Path) -> None:
    heavy = ("torch", "kubernetes", "diffusers", "redbeat")
    probe = f"import importlib.util as u; print([name for name in {heavy} if u.find_spec(name)])"
    done = subprocess.run([clean / "python", "-c", probe], check=True, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "[]"


def test_the_light_client_renders_from_a_folder_with_a_foreign_pipeline(studio: User, clean: Path) -> None:
    manifest = studio.manifest("light.jsonl", {"prompt": "a light hill", "width": 128, "height": 128, "steps": 2})
    state = running_stack(studio.data_dir)
    assert state is not None
    done = subprocess.run(
        studio.command("submit", manifest, "--output", "light", program=clean / "tessera"),
        cwd=studio.folder,
        env=studio.environment | dict(state.environment),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((studio.folder / "light" / "images").rglob("*.png"))) == 1


def test_the_light_client_says_what_the_local_stack_needs(studio: User, clean: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        studio.command("up", "--data-dir", tmp_path, program=clean / "tessera"),
        cwd=studio.folder,
        env=studio.environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'tessera-render[all]'" in done.stderr
