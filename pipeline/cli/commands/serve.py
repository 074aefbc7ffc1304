"""The command `serve`: the HTTP API of a deployment."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from pipeline.cli.exits import OK
from pipeline.client.connect import connect
from pipeline.client.remote.connection import RemoteConnection
from pipeline.errors import RequestError
from pipeline.names import URL_VARIABLE
from pipeline.process.logs import configure_logging

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "jinja2")


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(serve)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 8080,
) -> int:
    """Serve the HTTP API of a deployment until it is stopped. As many as wanted may run; see docs/api.md.

    Nobody gets in without a token: `tessera token create` makes one.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"`serve` needs {', '.join(missing)}: pip install 'tessera-render[serve]'")
    from pipeline.service.server import server

    connection = connect()
    if isinstance(connection, RemoteConnection):
        raise RequestError(f"{URL_VARIABLE} found; `serve` serves what TESSERA_REDIS_URL names: unset it")
    configure_logging(connection.settings.log_format, connection.settings.log_level)
    typer.echo(f"serving on http://{_shown(host)}:{port}" if port else f"serving on {host}", err=True)
    server(connection, host, port).run()
    return OK


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
