"""A Redis that Redis Sentinel watches: sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE?db=0, with TLS
rediss+sentinel://.

User and password are those of Redis. Sentinels that want some, too, have them as `sentinel_username` and
`sentinel_password` behind the question mark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMES = ("sentinel", "rediss+sentinel")
DEFAULT_PORT = 26379

_NODE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")
_OPTIONS = ("db", "sentinel_username", "sentinel_password")
_WANTED = "sentinel://HOST:PORT,HOST:PORT/SERVICE?db=0 wanted"


@dataclass(frozen=True)
class Sentinels:
    """Where the sentinels are, and which of their services is meant."""

    nodes: tuple[tuple[str, int], ...]
    service: str
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def node_options(self, tls: dict[str, Any]) -> dict[str, Any]:
        """What redis-py needs to speak with a sentinel."""
        return {
            **({"ssl": True} | tls if tls else {}),
            "username": self.sentinel_username,
            "password": self.sentinel_password,
        }


def parsed_sentinels(url: str) -> Sentinels | None:
    """The sentinels of a URL; None if it is of one server. Raises ValueError, which repeats no credentials."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        return None
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    service = unquote(parts.path.removeprefix("/"))
    if not service or "/" in service:
        raise ValueError(f"no name of a service found behind the hosts; {_WANTED}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise ValueError(
            f"options {', '.join(unknown)} found; {', '.join(_OPTIONS)} wanted; TLS has settings of its own"
        )
    db = options.get("db", "0")
    if not db.isascii() or not db.isdecimal():
        raise ValueError(f"db {db[:20]!r} found; a number wanted")
    return Sentinels(
        nodes=tuple(_node(one) for one in hosts.split(",")),
        service=service,
        db=int(db),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=options.get("sentinel_username") or None,
        sentinel_password=options.get("sentinel_password") or None,
    )


def _node(text: str) -> tuple[str, int]:
    match = _NODE.fullmatch(text)
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise ValueError(f"{text[:100]!r} found among the sentinels; HOST or HOST:PORT wanted; {_WANTED}")
    return match["host"].strip("[]"), port
