"""TLS in front of a server that speaks none: the embedded Valkey is built without it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Mapping
from typing import Self

import trustme


class Terminator:
    """Takes TLS connections of clients that show a certificate of the CA, and passes their bytes on.

    Ports that the server names in its answers, as a sentinel does, are named as `ports` says: five digits by five.
    """

    def __init__(
        self, target: int, ca: trustme.CA, certificate: trustme.LeafCert, *, ports: Mapping[int, int] | None = None
    ) -> None:
        self._target = target
        self._named = {b"\r\n%d\r\n" % old: b"\r\n%d\r\n" % new for old, new in (ports or {}).items()}
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self._context)
        ca.configure_trust(self._context)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._loop = asyncio.new_event_loop()
        self.port = 0

    def __enter__(self) -> Self:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context))
        self.port = server.sockets[0].getsockname()[1]
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_later(0.1, self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source, sink = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(_pump(reader, sink, {}), _pump(source, writer, self._named))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, named: Mapping[bytes, bytes]) -> None:
    try:
        while data := await source.read(1 << 16):
            for old, new in named.items():
                data = data.replace(old, new)
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()
