"""The commands and the Python of README.md and docs/ do what they are there for, as they stand, with one stack."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distri import loras, reference
from tests.docs.blocks import PAGES, ROOT, Block, blocks
from tests.e2e.stack import User

# What the pages assume to be in the user's folder: a checkout's examples, a prompt set and a LoRA of their own.
ROWS = '{"prompt": "a harbour", "size": "64x64", "steps": 2}\n{"prompt": "a boat", "size": "64x64", "steps": 2}\n'


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Iterator[User]:
    """Somebody who follows the pages, in a checkout without its code, with a stack that is up."""
    folder = tmp_path_factory.mktemp("reader")
    user = User(folder / "home", folder / "data", uuid.uuid4().hex)
    user.folder.mkdir()
    shutil.copytree(random_model, user.data_dir / "models" / "demo")
    for name in ("examples", "models", "helm"):
        shutil.copytree(ROOT / name, user.folder / name)
    (user.folder / "prompts.jsonl").write_text(ROWS)
    film = loras.peft(user.folder / "film.safetensors", reference.pipeline(random_model).components)
    for command in (["up", "--ranks", "1", "--lora", f"film={film}"], ["submit", "prompts.jsonl", "--watch"]):
        done = user.run(*command)
        assert done.returncode == 0, done.stderr
    yield user
    user.run("down")


def _run(user: User, command: list[str], block: Block) -> None:
    path = f"{Path(sys.executable).parent}:{user.environment['PATH']}"
    done = subprocess.run(
        command,
        cwd=user.folder,
        env=user.environment | {"PATH": path, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, f"{block.name}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.examples
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_work(reader: User, page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            if block.runs:
                _run(reader, [sys.executable, "-c", block.text], block)
            continue
        runs = [command.text for command in block.commands if command.runs]
        if runs:
            failing = "trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR"
            _run(reader, ["bash", "-e", "-c", "\n".join([failing, *runs])], block)
