"""The list of commands, which imports none of them."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import commands
from pipeline.cli.commands_by_name import COMMANDS, command_of
from pipeline.cli.main import app


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_the_command_says_of_itself(name: str) -> None:
    command = command_of(name)
    assert command.name == name
    assert COMMANDS[name][1] == command.help.split("\n\n")[0].replace("\n", " ")


def test_every_command_is_in_the_list() -> None:
    app = typer.Typer()
    for module in pkgutil.iter_modules(commands.__path__):
        import_module(f"{commands.__name__}.{module.name}").add_to(app)
    group: Any = typer.main.get_command(app)
    assert set(group.commands) == set(COMMANDS)


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert [name for name in COMMANDS if f"│ {name} " not in shown] == []


def test_help_imports_neither_settings_nor_services() -> None:
    program = (
        "import sys\nfrom pipeline.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "slow = {'pydantic', 'redis', 'boto3', 'botocore', 'structlog', 'torch', 'PIL', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(slow)) or 0)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_nearly_one_gets_it_suggested() -> None:
    assert "'submit'" in CliRunner().invoke(app, ["submti"]).output
