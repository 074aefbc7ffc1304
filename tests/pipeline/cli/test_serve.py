"""`tessera serve`: the socket that it listens on."""

from __future__ import annotations

import socket
from typing import ClassVar

import pytest

from pipeline.cli.commands.serve import serve
from pipeline.deployment.settings import Settings
from pipeline.service import server as service


class _Served:
    """Stands for the server: takes one connection, and remembers whether its answers are sent at once."""

    at_once: ClassVar[list[int]] = []

    def run(self, sockets: list[socket.socket]) -> None:
        [listener] = sockets
        with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            self.at_once.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@pytest.mark.parametrize("inherited", [False, True])
def test_no_answer_waits_for_an_acknowledgement(
    inherited: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_Served, "at_once", [])
    monkeypatch.setattr(service, "server", lambda *_: _Served())
    descriptor = socket.create_server(("127.0.0.1", 0)).detach() if inherited else None
    assert serve(port=0, descriptor=descriptor) == 0
    assert _Served.at_once == [1]
