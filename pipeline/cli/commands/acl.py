"""The command `acl`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson
from pipeline.deployment.settings import default_of
from pipeline.errors import RequestError
from pipeline.ledger.server.acl import ROLES, rules, user_name


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(acl)


def acl(
    roles: Annotated[
        list[str] | None, typer.Argument(help=f"Any of {', '.join(ROLES)}; by default all of them.", show_default=False)
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Name of the deployment; by default TESSERA_REDIS_PREFIX, or tessera.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Print the Redis commands that create a user for each role, with the fewest rights that it needs.

    They set no password, so they can also bring the rights of existing users up to date. Give a new user its password
    once: ACL SETUSER NAME >PASSWORD.
    """
    for role in roles or ():
        if role not in ROLES:
            raise RequestError(f"no role {role[:40]!r}; there are {', '.join(ROLES)}")
    deployment = prefix or os.environ.get("TESSERA_REDIS_PREFIX") or default_of("redis_prefix")
    wanted = {user_name(role, deployment): rules(role, deployment) for role in roles or ROLES}
    if as_json:
        write_json(wanted)
    else:
        sys.stdout.writelines(f"ACL SETUSER {name} {' '.join(words)}\n" for name, words in wanted.items())
    return OK
