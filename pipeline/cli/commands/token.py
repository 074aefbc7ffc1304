"""Commands about tokens of the HTTP API: `token create`, `token list`, `token revoke`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson
from pipeline.cli.table import print_table
from pipeline.cli.unreadable import print_unreadable
from pipeline.client.connect import connect
from pipeline.operations.status import Unreadable
from pipeline.operations.tokens import create_token, list_tokens, revoke_token
from pipeline.process.durations import parsed_duration
from pipeline.records.tokens import EVERY_TENANT, Scope, TokenRecord

token = typer.Typer(help="Tokens of the HTTP API (`tessera serve`).", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    token.command("create")(create)
    token.command("list")(list_all)
    token.command("revoke")(revoke)
    app.add_typer(token, name="token")


def create(
    tenant: Annotated[str, typer.Option(help="Whose batches it opens.")] = "default",
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="An operator's: it opens those of all.")] = False,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may be used for; may be repeated.", show_default="read and submit"),
    ] = None,
    expires: Annotated[
        str, typer.Option(metavar="SPAN", help="How long it works, as in 90d or 12h; `never` for ever.")
    ] = "90d",
    note: Annotated[str, typer.Option(help="Whose it is, or what it is for.")] = "",
    as_json: AsJson = False,
) -> int:
    """Make a token and print it, this once: only a digest is kept."""
    made = create_token(
        connect().ledger,
        EVERY_TENANT if all_tenants else tenant,
        tuple(scope or (Scope.READ, Scope.SUBMIT)),
        life=None if expires == "never" else parsed_duration(expires),
        note=note,
    )
    if as_json:
        write_json({"token": made.text, "id": made.record.id})
    else:
        typer.echo(made.text)
        until = f"until {made.record.expires_at:%Y-%m-%d %H:%M} UTC" if made.record.expires_at else "for ever"
        typer.echo(f"token {made.record.id} works {until}; `tessera token revoke {made.record.id}` ends it", err=True)
    return OK


def list_all(as_json: AsJson = False) -> int:
    """List tokens; what they were made as cannot be shown any more."""
    found = list_tokens(connect().ledger)
    if as_json:
        for one in found:
            write_json(one.as_dict() if isinstance(one, Unreadable) else _as_dict(one))
        return OK
    print_table("token", "tenant", "scopes", "made (UTC)", "expires (UTC)", "note", rows=[_row(one) for one in found])
    print_unreadable(found)
    return OK


def _as_dict(one: TokenRecord) -> dict[str, Any]:
    return one.model_dump(mode="json", exclude={"schema_version", "digest"})


def _row(one: TokenRecord | Unreadable) -> Sequence[str]:
    if isinstance(one, Unreadable):
        return one.id, "unreadable", *[""] * 4
    return (
        one.id,
        one.tenant,
        " ".join(one.scopes),
        f"{one.created_at:%Y-%m-%d %H:%M}",
        f"{one.expires_at:%Y-%m-%d %H:%M}" if one.expires_at else "never",
        one.note,
    )


def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `token list` shows it.", show_default=False)],
    as_json: AsJson = False,
) -> int:
    """Revoke a token: from now on it opens nothing."""
    revoke_token(connect().ledger, token_id)
    if as_json:
        write_json({"token": token_id, "revoked": True})
    else:
        typer.echo(f"{token_id} is revoked")
    return OK
