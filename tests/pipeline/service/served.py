"""A deployment of one process, with its HTTP API on a port of loopback."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.message import Message
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.client.connect import Connection
from pipeline.deployment.settings import Settings
from pipeline.errors import StaleWrite, UnknownBatch
from pipeline.ledger import Ledger
from pipeline.operations.tokens import create_token
from pipeline.records.tokens import Scope
from pipeline.service.context import Service
from pipeline.service.server import server
from pipeline.states import BatchState
from tasks.app import render
from tasks.control.cancel import cancel
from tasks.control.expand import expand
from tasks.control.finalize import finalize
from tests.tasks.stage import Stage


@dataclass(frozen=True)
class Answer:
    """What a request brought."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found


class Served:
    """The stage, what works on its batches, and the server."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.connection = Connection(stage.settings, stage.ledger, stage.artifacts)
        self._works = threading.Event()
        self._works.set()
        self._ends = threading.Event()
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.server = server(self.connection, "127.0.0.1", 0)
        self._serving = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._serving.start()
        self.token = self.new_token("one")

    def new_token(self, tenant: str, *scopes: Scope) -> str:
        return create_token(
            self.stage.ledger, tenant, scopes or (Scope.READ, Scope.SUBMIT), life=None, note="a test's"
        ).text

    def ask(
        self, method: str, path: str, json_body: Any = None, *, token: str | None = "", body: Any = None, **headers: str
    ) -> Answer:
        """One request; by default with the token of tenant `one`. Names of headers are written with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.token}"
        if json_body is not None:
            body, sent["Content-Type"] = json.dumps(json_body).encode(), "application/json"
        request = urllib.request.Request(self.url + path, body, sent, method=method)  # noqa: S310  # our own server
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def ended(self, batch_id: str) -> BatchState:
        """The state in which this batch ends."""
        self.stage.soon(lambda: batch_id not in self.stage.ledger.batches.unfinished(), f"{batch_id} ended")
        return self.stage.batch_state(batch_id)

    @contextmanager
    def with_settings(self, settings: Settings) -> Iterator[None]:
        """The API with other settings meanwhile."""
        with self.with_connection(replace(self.connection, settings=settings)):
            yield

    @contextmanager
    def without_redis(self) -> Iterator[None]:
        """The API while its Redis cannot be reached."""
        away = self.connection.settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
        with self.with_connection(replace(self.connection, ledger=Ledger(away))):
            yield

    @contextmanager
    def with_connection(self, connection: Connection) -> Iterator[None]:
        """The API with another Redis or S3 meanwhile."""
        state = self.server.config.app.state  # type: ignore[union-attr]  # the application itself
        before = state.service
        state.service = Service(connection)
        try:
            yield
        finally:
            state.service = before

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody works on batches meanwhile."""
        self._works.clear()
        try:
            yield
        finally:
            self._works.set()

    def _work(self) -> None:
        while not self._ends.wait(0.02):
            for batch_id in self.stage.ledger.batches.unfinished() if self._works.is_set() else ():
                try:
                    self._next_step(batch_id)
                except (UnknownBatch, StaleWrite):
                    continue

    def _next_step(self, batch_id: str) -> None:
        stage, record = self.stage, self.stage.ledger.batches.get(batch_id)
        if record.state is BatchState.PAUSED:
            return
        if record.jobs is None:
            expand(stage.worker, batch_id)
        elif record.state is BatchState.CANCELLING and stage.ledger.jobs.any_unfinished(batch_id):
            cancel(stage.worker, batch_id)
        elif stage.ledger.jobs.any_unfinished(batch_id):
            render(stage.worker)
            stage.ledger.leases.promote()
        else:
            finalize(stage.worker, batch_id)

    def close(self) -> None:
        self.server.should_exit = True
        self._ends.set()
        self._serving.join(30)
        self._worker.join(30)
        self.stage.close()
        if self._serving.is_alive() or self._worker.is_alive():
            pytest.fail("the server did not end")
