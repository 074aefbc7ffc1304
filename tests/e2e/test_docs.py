"""The commands and the Python of README.md and docs/ do what they are there for, as they stand, with one stack."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distri import loras, reference
from tests.docs.blocks import PAGES, ROOT, blocks
from tests.e2e.forked import programs
from tests.e2e.stack import User

# What the pages assume to be in the user's folder: a checkout's examples, a prompt set and a LoRA of their own.
ROWS = '{"prompt": "a harbour", "size": "64x64", "steps": 2}\n{"prompt": "a boat", "size": "64x64", "steps": 2}\n'

# What makes a checkout's examples long; tests/distri/run/test_examples.py renders each, test_demo.py those of the demo.
SMALLER = (
    (re.compile(r'"steps": \d+'), '"steps": 2'),
    (re.compile(r'"(width|height)": \d+'), r'"\1": 64'),
    (re.compile(r"\b\d{3}x\d{3}\b"), "64x64"),
    (re.compile(r"(?<=64x64,)\d+"), "2"),
)
AS_LARGE_AS_ITS_PICTURE = "images-in.jsonl"

# A failure names its command; what a page leaves running ends with it.
PRELUDE = """
trap 'echo "failed: $BASH_COMMAND" >&2' ERR
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"""


# To curl a refusal is a success and a server that is not up yet a failure; a reader sees the one, waits for the other.
CURL = "fail-with-body\nretry 60\nretry-delay 1\nretry-connrefused\n"


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH with the programs that the pages call."""
    with programs(tmp_path_factory.mktemp("bin")) as folder:
        yield folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Iterator[User]:
    """Who follows the pages, in a checkout without its code, with a stack that is up and a batch that has ended."""
    folder = tmp_path_factory.mktemp("reader")
    user = User(folder / "home", folder / "data", uuid.uuid4().hex)
    user.folder.mkdir()
    shutil.copytree(random_model, user.data_dir / "models" / "demo")
    for name in ("examples", "models", "helm"):
        shutil.copytree(ROOT / name, user.folder / name)
    _make_small(user.folder / "examples")
    (user.folder / "prompts.jsonl").write_text(ROWS)
    (user.folder / ".curlrc").write_text(CURL)
    film = loras.peft(user.folder / "film.safetensors", reference.pipeline(random_model).components)
    try:
        for command in (["up", "--ranks", "1", "--lora", f"film={film}"], ["submit", "prompts.jsonl", "--watch"]):
            done = user.run(*command, timeout_s=800)
            assert done.returncode == 0, done.stderr
        yield user
    finally:
        user.run("down")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _make_small(examples: Path) -> None:
    for path in (*examples.glob("*.jsonl"), *examples.glob("*.csv")):
        text = path.read_text()
        for found, small in SMALLER[:1] if path.name == AS_LARGE_AS_ITS_PICTURE else SMALLER:
            text = found.sub(small, text)
        path.write_text(text)


def _script(page: Path) -> str:
    """All examples of a page, one after the other in one shell, as somebody has typed them who reads it."""
    lines = [PRELUDE]
    for block in blocks(page):
        lines.append(f"echo '--- {block.name}' >&2")
        if block.language == "python":
            lines += [f"python-here <<'END'\n{block.text}END"] if block.runs else []
        else:
            lines += [command.text for command in block.commands if command.runs]
    return "\n".join(lines)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_examples_of_a_page_work(reader: User, commands: Path, page: Path) -> None:
    path = f"{commands}:{Path(sys.executable).parent}:{reader.environment['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-e", "-c", _script(page)],
        cwd=reader.folder,
        env=reader.environment | {"PATH": path, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
