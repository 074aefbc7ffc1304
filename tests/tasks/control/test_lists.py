"""Lists show what cannot be read as that, and do without what is removed while they are made."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline import Client
from pipeline.client.connect import Connection
from pipeline.operations.status import Unreadable
from tests.tasks.stage import Stage


def _client(stage: Stage) -> Client:
    return Client(Connection(stage.settings, stage.ledger, stage.artifacts))


@pytest.mark.parametrize("record", [b"{", b"\xff\xfe", b'{"schema_version": 99}', b"", b"[]"])
def test_one_unreadable_batch_is_a_row_among_the_others(stage: Stage, record: bytes) -> None:
    for name in ("a", "b", "c"):
        stage.accepted(1, name)
    stage.ledger.store.redis.hset(stage.ledger.store.keys.batch("b"), "record", record)
    found = {one.id: isinstance(one, Unreadable) for one in _client(stage).batches()}
    assert found == {"a": False, "b": True, "c": False}
    assert [one.id for one in _client(stage).ended_before(timedelta(0))] == []


def test_a_batch_that_is_purged_meanwhile_is_left_out(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        stage.accepted(1, name)
    newest: Any = stage.ledger.batches.newest
    monkeypatch.setattr(stage.ledger.batches, "newest", lambda limit, first: ["gone", *newest(limit, first=first)])
    assert {one.id for one in _client(stage).batches()} == {"a", "b"}
