"""The command `serve`: the HTTP API of a deployment."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from pipeline.cli.exits import OK
from pipeline.client.connect import connect
from pipeline.client.local_stack import missing_for_page
from pipeline.client.remote.connection import RemoteConnection
from pipeline.errors import RequestError
from pipeline.names import URL_VARIABLE
from pipeline.process.logs import configure_logging


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(serve)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 8080,
    descriptor: Annotated[int | None, typer.Option("--fd", hidden=True, help="A socket that listens.")] = None,
) -> int:
    """Serve the HTTP API of a deployment until it is stopped. As many as wanted may run; see docs/api.md.

    Nobody gets in without a token: `tessera token create` makes one.
    """
    if missing := missing_for_page():
        raise RequestError(f"`serve` needs {', '.join(missing)}: pip install 'tessera-render[serve]'")
    from pipeline.service.server import server

    connection = connect()
    if isinstance(connection, RemoteConnection):
        raise RequestError(f"{URL_VARIABLE} found; `serve` serves what TESSERA_REDIS_URL names: unset it")
    configure_logging(connection.settings.log_format, connection.settings.log_level)
    try:
        listener = _listener(host, port) if descriptor is None else socket.socket(fileno=descriptor)
    except OSError as error:
        raise RequestError(f"{_shown(host)}:{port} cannot be listened on: {error.strerror}") from error
    typer.echo(f"serving on http://{_shown(host)}:{listener.getsockname()[1]}", err=True)
    # Accepted sockets inherit it. asyncio sets it only where a socket names TCP, and these do not: without it the
    # second part of an answer waits 40 ms until the client has acknowledged the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server(connection, host, port).run(sockets=[listener])
    return OK


def _listener(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
