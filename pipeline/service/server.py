"""The process: uvicorn with our application and our log."""

from __future__ import annotations

import uvicorn

from pipeline.client.connect import Connection
from pipeline.service.app import create_app
from pipeline.service.head_deadline import HeadDeadline

# Requests that are being answered get so long when the process is to end.
_GRACE_S = 20


def server(connection: Connection, host: str, port: int) -> uvicorn.Server:
    """A server that is ready to `run`; uvicorn logs through the process's own log, and no line for each request."""
    config = uvicorn.Config(
        create_app(connection),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_graceful_shutdown=_GRACE_S,
        http=HeadDeadline,
        h11_max_incomplete_event_size=64 << 10,
        # Behind a proxy, links take scheme and host from TESSERA_API_URL; addresses are the peers' own.
        proxy_headers=False,
    )
    return uvicorn.Server(config)
