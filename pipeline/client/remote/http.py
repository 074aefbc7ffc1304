"""Requests to the HTTP API: retried where that is harmless, and its errors as ours, by the name they have there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from pipeline import errors
from pipeline.errors import PromptSetError, RequestError, RowError, ServiceError, SettingsError, TesseraError
from pipeline.process.redact import conceal
from pipeline.version import installed_version

_CONNECT_S, _READ_S = 10.0, 900.0  # validating a million rows takes minutes
_RETRIES = 4
_TOO_MANY, _MOST_WAIT_S = 429, 60
_CHUNK_BYTES = 1 << 20
_LINE_BYTES = 1 << 16


class HttpApi:
    """One address and one token. Safe to share between threads."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise SettingsError(f"TESSERA_URL {_shown(url)!r} found; an address as in https://tessera.example wanted")
        if not token or not token.isascii() or not token.isprintable():
            raise SettingsError("no token found; set TESSERA_TOKEN (token=...), which `tessera token create` makes")
        conceal(token)
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": f"tessera/{installed_version()}"}
        self._pool = urllib3.PoolManager(
            maxsize=16,
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
            retries=urllib3.Retry(
                total=_RETRIES,
                backoff_factor=0.3,
                status_forcelist=(429, 502, 503),
                allowed_methods=("GET", "HEAD"),
                raise_on_status=False,
                redirect=3,
                remove_headers_on_redirect=("Authorization",),
            ),
        )

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """What the API answers, parsed; None if it is nothing. Raises its errors."""
        sent = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        with _as_ours(self.url):
            answer = self._pool.request(
                method, self._where(path, query), body=sent, headers={**self._headers, **kind, **(headers or {})}
            )
        _raise_error(answer.status, answer.data)
        return json.loads(answer.data) if answer.data else None

    def upload(self, name: str, file: IO[bytes], query: Mapping[str, Any], purpose: str = "prompts") -> str:
        """Upload a file as it is read, from its beginning; returns its id. Waits while the token is at its limit."""
        edge = urllib3.filepost.choose_boundary()
        safe = "".join("_" if character in '"\r\n\\' else character for character in name)
        head = f'--{edge}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
        head += f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{safe}"\r\n\r\n'

        def form() -> Iterator[bytes]:
            file.seek(0)
            yield head.encode()
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
            yield f"\r\n--{edge}--\r\n".encode()

        headers = self._headers | {"Content-Type": f"multipart/form-data; boundary={edge}"}
        where = self._where("/api/files", query)
        for again in range(_RETRIES, -1, -1):
            with _as_ours(self.url):
                answer = self._pool.request("POST", where, body=form(), headers=headers, retries=False)
            if not (again and answer.status == _TOO_MANY):
                break
            time.sleep(_wait_s(answer.headers.get("Retry-After", "")))
        _raise_error(answer.status, answer.data)
        return str(json.loads(answer.data)["id"])

    def open(self, path: str, query: Mapping[str, Any] | None = None) -> urllib3.BaseHTTPResponse | None:
        """An answer to be read as it comes; None if there is nothing of that name."""
        with _as_ours(self.url):
            answer = self._pool.request("GET", self._where(path, query), headers=self._headers, preload_content=False)
            if answer.status == 404:
                body = answer.read(_LINE_BYTES)
                answer.release_conn()
                if _code(body) == "NotFound":
                    return None
                _raise_error(answer.status, body)
            if answer.status >= 400:
                _raise_error(answer.status, answer.data)
        return answer

    def chunks(self, answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """The body of an answer as it comes."""
        with _as_ours(self.url):
            yield from answer.stream(_CHUNK_BYTES)

    def _where(self, path: str, query: Mapping[str, Any] | None) -> str:
        given = {name: value for name, value in (query or {}).items() if value not in (None, "", [])}
        return f"{self.url}{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")


@contextmanager
def _as_ours(url: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        raise ServiceError(
            f"{url} does not answer ({type(error).__name__}); check TESSERA_URL, and whether `tessera serve` runs there"
        ) from error


def _wait_s(retry_after: str) -> int:
    return min(int(retry_after), _MOST_WAIT_S) if retry_after.isdigit() else 1


def _code(body: bytes) -> str | None:
    try:
        found = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _raise_error(status: int, body: bytes) -> None:
    if status < 400:
        return
    try:
        found = json.loads(body)["error"]
        message = str(found["message"])
    except (ValueError, KeyError, TypeError):
        raise ServiceError(f"an answer of status {status} found that is none of Tessera's; check TESSERA_URL") from None
    if found.get("code") == PromptSetError.__name__:
        lines = [RowError(one["line"], one["field"], one["message"]) for one in found["errors"]]
        raise PromptSetError(found["source"], lines, found["total"])
    kind = getattr(errors, str(found.get("code")), None)
    if isinstance(kind, type) and issubclass(kind, TesseraError):
        raise _error(kind, message)
    raise ServiceError(message) if status >= 500 else RequestError(message)


def _error(kind: type[TesseraError], message: str) -> TesseraError:
    """An error of this kind with the message it had there; what else it carries stays there."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


def _shown(url: str) -> str:
    return url.rpartition("@")[2][:100]
