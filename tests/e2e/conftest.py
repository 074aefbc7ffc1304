"""A user with the whole stack running, shared by the tests of a module; and users who start their own."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distri import demo_model
from pipeline import Client
from pipeline.client.connect import Connection, connect_to_stack
from pipeline.client.local_stack import running_stack
from tests.e2e.forked import programs
from tests.e2e.stack import TESSERA, User, until


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick model, for whatever does not ask what a picture shows."""
    return demo_model.write(tmp_path_factory.mktemp("random") / "demo")


def new_user(folder: Path, model: Path | None = None) -> User:
    """A user whose folder holds files that are named like our packages, as users' folders do.

    Args:
        model: put into the data folder; without it a stack takes the checkout's trained one.
    """
    home = folder / "home"
    home.mkdir()
    for name in ("pipeline.py", "tasks.py", "k8s.py"):
        (home / name).write_text('raise RuntimeError("a file of the user was imported instead of the product")\n')
    (home / "distri").mkdir()
    (home / "distri" / "__init__.py").write_text('raise RuntimeError("the same, as a package")\n')
    if model is not None:
        shutil.copytree(model, folder / "data" / "models" / "demo")
    return User(home, folder / "data", uuid.uuid4().hex)


@pytest.fixture
def user(tmp_path: Path, random_model: Path) -> Iterator[User]:
    """A user without a stack; whatever they start must be gone when the test ends."""
    yield from _until_gone(new_user(tmp_path, random_model))


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[User]:
    """A user of a fresh checkout, who gets its trained model; whatever they start must be gone when the test ends."""
    yield from _until_gone(new_user(tmp_path))


def _until_gone(user: User) -> Iterator[User]:
    yield user
    user.run("down")
    until("every process of the user is gone", lambda: not user.processes(), 60)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Iterator[User]:
    """A user with a stack that is up, whose commands need no start of Python."""
    user = new_user(tmp_path_factory.mktemp("studio"), random_model)
    done = user.run("up")
    assert done.returncode == 0, done.stderr
    with programs(tmp_path_factory.mktemp("bin")) as folder:
        yield replace(user, program=folder / TESSERA.name)
    user.run("down")


@pytest.fixture
def connection(studio: User) -> Connection:
    """The deployment of the stack that is up."""
    state = running_stack(studio.data_dir)
    assert state is not None
    return connect_to_stack(state.environment)


@pytest.fixture
def client(connection: Connection) -> Client:
    """The Python client of the stack that is up."""
    return Client(connection)


@pytest.fixture
def worker_pid(studio: User) -> Callable[[str], int]:
    """The process of one of the stack's parts, by what its command line holds."""

    def find(part: str) -> int:
        def pids() -> list[int]:
            return [pid for pid, command in studio.processes().items() if part in command]

        return int(until(f"a process of {part}", pids, 60)[0])

    return find
