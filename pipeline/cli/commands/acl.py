"""The command `acl`."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from pipeline.cli.exits import OK
from pipeline.errors import RequestError
from pipeline.ledger.server.acl import ROLES, rules, user_name


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(acl)


def acl(
    roles: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(ROLES)}; all of them if not given.", show_default=False)
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="The deployment's name; TESSERA_REDIS_PREFIX or tessera if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")] = False,
) -> int:
    """Print the Redis commands that make a user for each role, with the least rights that it needs.

    They set no password, so they also bring the rights of users up to date. Give a new user its password once:
    ACL SETUSER NAME >PASSWORD.
    """
    for role in roles or ():
        if role not in ROLES:
            raise RequestError(f"no role {role[:40]!r}; there are {', '.join(ROLES)}")
    deployment = prefix or os.environ.get("TESSERA_REDIS_PREFIX") or "tessera"
    wanted = {user_name(role, deployment): rules(role, deployment) for role in roles or ROLES}
    if as_json:
        sys.stdout.write(json.dumps(wanted) + "\n")
    else:
        sys.stdout.writelines(f"ACL SETUSER {name} {' '.join(words)}\n" for name, words in wanted.items())
    return OK
