"""Requests to URLs that users name: only to addresses that are public, or that the deployment allows.

The address is checked after its name was resolved, and the connection goes to that very address, so that a name which
resolves otherwise a moment later (DNS rebinding) leads nowhere else. Redirects are not followed, and no proxy is used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from typing import Any
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class NotSent(Exception):
    """Nobody took the request; the message says why, without the URL's path."""


class AddressRefused(NotSent):
    """Where the URL leads, nothing may be sent."""


def is_allowed(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether something may be sent there: the address is public, or in one of these networks."""
    if _is_in(address, allowed):
        return True
    if isinstance(address, ipaddress.IPv6Address) and (inner := _inner(address)) is not None:
        return is_allowed(inner, allowed)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, allowed: Sequence[Network] = ()
) -> int:
    """POST a body; returns the HTTP status of the answer, whatever it is.

    Args:
        timeout_s: of everything together, from the look at the name to the answer, also where bytes come one by one.
        allowed: networks that may be sent to although they are not public; http:// is for these alone.

    Raises NotSent: AddressRefused if nothing may be sent there.
    """
    until = time.monotonic() + timeout_s
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    address = _checked_address(host, port, parts.scheme, allowed, timeout_s)
    try:
        connected = socket.create_connection((str(address), port), _left_s(until))
        # TLS takes the connection away from its socket; what is done to a second one of it is done to the connection.
        second = connected.dup()
    except OSError as error:
        raise NotSent(f"{host} port {port} cannot be reached ({_reason(error)})") from error
    up = threading.Timer(_left_s(until), _shut, (second,))
    up.daemon = True
    up.start()
    try:
        connection = http.client.HTTPConnection(host, port)
        if parts.scheme == "https":
            connected = _trust().wrap_socket(connected, server_hostname=host)
        connection.sock = connected
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.putrequest("POST", target, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": parts.netloc, **headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, ssl.SSLError) and time.monotonic() < until:
            raise NotSent(f"{host} port {port}: TLS failed ({error.reason or type(error).__name__})") from error
        raise NotSent(f"{host} port {port} gave no answer within {timeout_s:g} s ({_reason(error)})") from error
    finally:
        up.cancel()
        second.close()
        connected.close()


def _left_s(until: float) -> float:
    return max(0.001, until - time.monotonic())  # 0 would mean: do not wait at all


def _checked_address(host: str, port: int, scheme: str, allowed: Sequence[Network], timeout_s: float) -> Address:
    """The first address of the host. Raises NotSent; AddressRefused if one of them may not be sent to."""
    try:
        found = _looked_up(host, port).result(timeout_s)
        addresses = [ipaddress.ip_address(str(where[0]).partition("%")[0]) for *_, where in found]
    except (OSError, UnicodeError, ValueError) as error:
        raise NotSent(f"{host[:200]!a} has no address ({_reason(error)})") from error
    for address in addresses:
        if not is_allowed(address, allowed):
            raise AddressRefused(
                f"{host} is {address}, which is not public; whoever runs the deployment can allow its network "
                "(TESSERA_WEBHOOK_NETWORKS)"
            )
        if scheme == "http" and not _is_in(address, allowed):
            raise AddressRefused(f"http:// found, for {host}; https:// wanted, but for networks that are allowed")
    return addresses[0]


def _looked_up(host: str, port: int) -> Future[list[tuple[Any, ...]]]:
    """The addresses of a name, asked for in a thread of its own: the system's resolver knows no time limit."""
    found: Future[list[tuple[Any, ...]]] = Future()

    def look_up() -> None:
        try:
            found.set_result(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, ValueError) as error:
            found.set_exception(error)

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    return found


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _shut(connected: socket.socket) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        connected.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
