"""Commands about webhooks: add, list, remove, deliveries, resend, secret."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson, OfBatch, Tenant, WebhookEvents
from pipeline.cli.table import print_table
from pipeline.client.client import Client
from pipeline.operations.webhooks import delivery_as_dict, endpoint_as_dict
from pipeline.records.webhooks import DeliveryState, shown_url

OfTenant = Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.")]

_app = typer.Typer(help="Have what becomes of batches sent to a URL.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program, under `webhook`."""
    app.add_typer(_app, name="webhook")


@_app.command()
def add(
    url: Annotated[str, typer.Argument(help="https://HOST/PATH that events are sent to.", show_default=False)],
    tenant: Tenant = "default",
    batch: OfBatch = None,
    event: WebhookEvents = None,
    as_json: AsJson = False,
) -> int:
    """Send the events of all batches of a tenant to a URL, or those of one batch, as `submit --webhook URL` does."""
    added = Client().webhooks.add(url, tenant=tenant, batch_id=batch, events=event or ())
    if as_json:
        write_json(endpoint_as_dict(added))
    else:
        whose = f"tenant {added.tenant}" if added.batch_id is None else f"batch {added.batch_id}"
        typer.echo(f"{added.id}  {', '.join(added.webhook.events)} of {whose} go to {shown_url(url)}")
        typer.echo(f"what it checks signatures with: tessera webhook secret --tenant {added.tenant}", err=True)
    return OK


@_app.command("list")
def list_webhooks(tenant: OfTenant = None, batch: OfBatch = None, as_json: AsJson = False) -> int:
    """List the webhooks of tenants, and those added to batches. Paths of URLs are not shown: they may be passwords."""
    found = Client().webhooks.list(tenant, batch_id=batch)
    if as_json:
        for one in found:
            write_json(endpoint_as_dict(one))
        return OK
    rows = [
        (one.id, one.tenant, one.batch_id or "", shown_url(one.webhook.url), ", ".join(one.webhook.events))
        for one in found
    ]
    print_table("webhook", "tenant", "batch", "to", "events", rows=rows)
    return OK


@_app.command()
def remove(webhook_id: Annotated[str, typer.Argument(help="Id of a webhook.", show_default=False)]) -> int:
    """Remove a webhook; what is on its way to it is still delivered."""
    Client().webhooks.remove(webhook_id)
    typer.echo(f"{webhook_id}: removed")
    return OK


@_app.command()
def deliveries(
    batch: OfBatch = None,
    tenant: OfTenant = None,
    state: Annotated[DeliveryState | None, typer.Option(help="Only in this state.")] = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1)] = 20,
    as_json: AsJson = False,
) -> int:
    """List deliveries of the last seven days, newest first, also those to webhooks of single batches."""
    found = Client().webhooks.deliveries(batch_id=batch, tenant=tenant, state=state, limit=limit)
    if as_json:
        for one in found:
            write_json(delivery_as_dict(one))
        return OK
    rows = [
        (
            one.id,
            one.batch_id,
            one.event,
            one.state.value,
            str(one.attempts),
            shown_url(one.url),
            one.reason or (f"HTTP {one.status}" if one.status else ""),
        )
        for one in found
    ]
    print_table("delivery", "batch", "event", "state", "attempts", "to", "last answer", rows=rows)
    return OK


@_app.command()
def resend(delivery_id: Annotated[str, typer.Argument(help="Id of a delivery.", show_default=False)]) -> int:
    """Send a delivery once more, with the id that it had."""
    again = Client().webhooks.resend(delivery_id)
    typer.echo(f"{again.id}: {again.event} of {again.batch_id} is sent to {shown_url(again.url)} again")
    return OK


@_app.command()
def secret(tenant: Tenant = "default", as_json: AsJson = False) -> int:
    """Show what a receiver checks signatures with (Standard Webhooks). Needs TESSERA_WEBHOOK_KEY."""
    found = Client().webhooks.secrets(tenant)
    if as_json:
        write_json({"tenant": tenant, "secrets": list(found)})
    else:
        typer.echo("\n".join(found))
    return OK
