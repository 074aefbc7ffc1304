"""Nothing is sent to an address that is not public, whatever the URL looks like."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time

import pytest
import trustme

from pipeline.process import outgoing
from pipeline.process.outgoing import AddressRefused, NotSent, is_allowed, post

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.1.2.3", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::a00:1",
        "2002:7f00:1::", "240.0.0.1", "192.0.2.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_public_ones_are_not(address: str) -> None:
    assert is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::1]", "[::ffff:7f00:1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_every_spelling_of_this_machine_is_refused(host: str, scheme: str) -> None:
    with pytest.raises(AddressRefused):
        post(f"{scheme}://{host}:1/", b"", {}, timeout_s=1)


def test_a_name_that_resolves_otherwise_a_moment_later_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the very address that was checked: names are asked for once."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    connected: list[tuple[str, int]] = []

    def resolve(_host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(where: tuple[str, int], _timeout_s: float) -> socket.socket:
        connected.append(where)
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(NotSent):
        post("https://rebinds.example/", b"", {}, timeout_s=1)
    assert connected == [("93.184.216.34", 443)]


def test_http_is_for_networks_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(AddressRefused, match="https:// wanted"):
        post("http://public.example/", b"", {}, timeout_s=1, allowed=LOOPBACK)


class Dripping:
    """A receiver that sends a byte now and then; `hung_up` says whether it was hung up on before it had sent all."""

    def __init__(self, context: ssl.SSLContext | None, head: bytes) -> None:
        self.hung_up = False
        self._context, self._head = context, head
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self.thread = threading.Thread(target=self._drip, daemon=True)
        self.thread.start()

    def _drip(self) -> None:
        peer, _ = self.listening.accept()
        try:
            peer.sendall(self._head)
            with self._context.wrap_socket(peer, server_side=True) if self._context else peer as told:
                for _ in range(400):
                    told.sendall(b"H")
                    time.sleep(0.05)
        except OSError:
            self.hung_up = True
        finally:
            peer.close()


# What it begins with: nothing, or the head of a TLS record, which then never is whole.
@pytest.mark.parametrize(("scheme", "head"), [("http", b""), ("https", b""), ("https", b"\x16\x03\x03\x40\x00")])
def test_a_receiver_that_answers_byte_by_byte_does_not_hold_us(
    scheme: str, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    trusted, own = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(trusted)
    authority.issue_cert("127.0.0.1").configure_cert(own)
    monkeypatch.setattr(outgoing, "_trust", lambda: trusted)
    receiver = Dripping(own if scheme == "https" and not head else None, head)
    with receiver.listening, pytest.raises(NotSent, match="no answer within"):
        post(f"{scheme}://127.0.0.1:{receiver.port}/", b"{}", {}, timeout_s=0.5, allowed=LOOPBACK)
    receiver.thread.join()
    assert receiver.hung_up


def test_a_name_that_nobody_resolves_does_not_hold_us(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def resolve(*_: object, **__: object) -> list[object]:
        if not answered.wait(60):
            answered.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(NotSent, match="has no address"):
        post("https://slow.example/", b"{}", {}, timeout_s=0.05)
    assert not answered.is_set()
    answered.set()
