"""A server that is started when somebody first connects to its port: until then it costs neither memory nor time."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from dataclasses import replace

import structlog

from embedded.processes.child import Child, Program
from pipeline.errors import ServiceError

_LOOPBACK = "127.0.0.1"
_WAITING = 128  # connections that may wait while it starts

log = structlog.get_logger("embedded.processes.on_demand")


def listen(port: int | None, usual: int) -> socket.socket:
    """A socket that listens on this loopback port; None: on the usual one, or on a free one if that is taken.

    Raises ServiceError if a port was wanted that is taken.
    """
    try:
        return socket.create_server((_LOOPBACK, usual if port is None else port), backlog=_WAITING)
    except OSError as error:
        if port is not None:
            raise ServiceError(
                f"port {port} of {_LOOPBACK} cannot be listened on ({error.strerror}): choose another with --port, "
                "or start without the page with --no-page"
            ) from error
        return socket.create_server((_LOOPBACK, 0), backlog=_WAITING)


class OnDemand:
    """A program and the socket that it takes over as a descriptor; whoever connects early waits in its queue."""

    def __init__(self, program: Program, listener: socket.socket, flag: str) -> None:
        descriptor = listener.fileno()
        command: Sequence[str] = (*program.command, flag, str(descriptor))
        self.child = Child(replace(program, command=command, descriptors=(descriptor,)))
        self._listener = listener

    @property
    def url(self) -> str:
        """Where it is reached, without a slash at the end."""
        return f"http://{_LOOPBACK}:{self._listener.getsockname()[1]}"

    def start_if_asked(self) -> None:
        """Start it if it has never run and somebody waits. From the main thread only."""
        if self.child.pid is None and select.select([self._listener], [], [], 0)[0]:
            self.child.start()
            log.info("started on demand", child=self.child.name, pid=self.child.pid)
