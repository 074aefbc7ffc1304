"""The generation of a ledger moves on from the one that was read, and says whether the ledger may be believed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from pipeline.ledger import Ledger
from pipeline.ledger.generations import UNNAMED, Standing
from pipeline.records.generation import Generation


def _standing(ledger: Ledger, sequence: int = 1, doubt: str = "") -> Standing:
    server = "" if doubt else ledger.generations.server()
    return Standing(Generation(token="t", sequence=sequence), server, doubt)


def test_a_generation_is_written_over_the_one_that_was_read_and_no_other(ledger: Ledger) -> None:
    generations = ledger.generations
    assert generations.read() is None
    first, second = _standing(ledger), _standing(ledger, 2)
    assert generations.write(None, first)
    assert not generations.write(None, _standing(ledger, 7))
    assert generations.write(first, second)
    assert not generations.write(first, _standing(ledger, 7))
    found = generations.read()
    assert found is not None
    assert found.generation == second.generation


def test_a_step_whose_answer_was_lost_is_recognised_when_it_is_asked_for_again(ledger: Ledger) -> None:
    first = _standing(ledger)
    assert ledger.generations.write(None, first)
    assert ledger.generations.write(None, first)


def test_a_ledger_is_in_doubt_until_it_is_believed_on_the_server_that_answers(ledger: Ledger) -> None:
    generations = ledger.generations
    assert generations.is_in_doubt()  # it has no generation
    first = _standing(ledger)
    generations.write(None, first)
    assert not generations.is_in_doubt()
    restarted = replace(_standing(ledger, 2), server="another")
    generations.write(first, restarted)
    assert generations.is_in_doubt()
    doubted = _standing(ledger, 3, doubt="why")
    generations.write(restarted, doubted)
    assert generations.is_in_doubt()
    generations.write(doubted, _standing(ledger, 4))
    assert not generations.is_in_doubt()


def test_when_it_was_last_in_order_and_since_when_it_is_in_doubt_are_remembered(ledger: Ledger) -> None:
    generations, first = ledger.generations, _standing(ledger)
    before = ledger.now()
    generations.write(None, first)
    doubted = _standing(ledger, 2, doubt="why")
    generations.write(first, doubted)
    found = generations.read()
    assert found is not None
    assert found.good_at is not None
    assert found.since is not None
    assert before.replace(microsecond=0) <= found.good_at <= found.since <= ledger.now()
    generations.write(doubted, _standing(ledger, 3, doubt="another reason"))
    again = generations.read()
    assert again is not None
    assert (again.good_at, again.since) == (found.good_at, found.since)


def test_a_server_that_does_not_say_which_it_is_is_the_same_every_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(_section: str) -> dict[str, str]:
        raise redis.ResponseError("unknown command 'info'")

    monkeypatch.setattr(ledger.store.redis, "info", hidden)
    assert ledger.generations.server() == UNNAMED
    ledger.generations.write(None, _standing(ledger))
    assert not ledger.generations.is_in_doubt()
