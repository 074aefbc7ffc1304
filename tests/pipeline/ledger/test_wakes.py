"""What clients ask a controller to look at is a batch id, once, or nothing."""

from __future__ import annotations

import pytest

from pipeline.ledger import Ledger
from pipeline.ledger.wakes import SCHEDULES


def test_what_is_asked_for_twice_is_taken_once(ledger: Ledger) -> None:
    assert ledger.wakes.ask("b")
    assert ledger.wakes.ask("b")
    assert ledger.wakes.ask(SCHEDULES)
    assert {ledger.wakes.take(0.01), ledger.wakes.take(0.01)} == {"b", SCHEDULES}
    assert ledger.wakes.take(0.01) is None


@pytest.mark.parametrize("member", [b"../x", b"", b"\xff\xfe", b"x" * 10_000, b"/other", b"a b"])
def test_what_is_no_batch_is_dropped(ledger: Ledger, member: bytes) -> None:
    ledger.store.redis.zadd(ledger.store.keys.wakes, {member: 0})
    assert ledger.wakes.take(0.01) is None
    assert not ledger.store.redis.exists(ledger.store.keys.wakes)


def test_something_else_in_its_place_is_removed(ledger: Ledger) -> None:
    ledger.store.redis.set(ledger.store.keys.wakes, "no set")
    assert ledger.wakes.take(0.01) is None
    assert ledger.wakes.ask("b")
    assert ledger.wakes.take(0.01) == "b"
