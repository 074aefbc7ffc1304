"""The generation of a ledger moves on from the one that was read, and says whether the ledger may be believed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from pipeline.errors import LedgerInDoubt
from pipeline.ledger import Ledger, generations
from pipeline.ledger.generations import UNNAMED, Standing
from pipeline.ledger.scripts import Argument
from pipeline.records.generation import Generation
from tests.factories import batch_record, job_record


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


def _restart(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, connections: bool = True) -> None:
    """What a client sees of a restart: another run id, and broken connections."""
    monkeypatch.setattr(ledger.store.redis, "info", lambda _section: {"run_id": "another"})
    if connections:
        ledger.store.redis.connection_pool.disconnect()


def test_a_restart_is_noticed_at_once_and_which_server_answers_is_seldom_asked(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.generations.write(None, _standing(ledger))
    assert not ledger.generations.is_in_doubt()
    _restart(ledger, monkeypatch, connections=False)
    assert not ledger.generations.is_in_doubt()  # nothing was asked
    ledger.store.redis.connection_pool.disconnect()
    assert ledger.generations.is_in_doubt()


def test_a_server_that_was_switched_under_open_connections_is_noticed_after_a_while(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.generations.write(None, _standing(ledger))
    assert not ledger.generations.is_in_doubt()
    _restart(ledger, monkeypatch, connections=False)
    monkeypatch.setattr(generations, "SERVER_S", 0.0)
    assert ledger.generations.is_in_doubt()


def _waiting_job(ledger: Ledger) -> str:
    ledger.batches.create(batch_record())
    job = job_record()
    ledger.jobs.create(job)
    return job.ref


def test_nothing_is_claimed_of_a_ledger_in_doubt_unless_that_is_wanted(ledger: Ledger) -> None:
    ref = _waiting_job(ledger)
    first = _standing(ledger)
    ledger.generations.write(None, first)
    ledger.generations.write(first, _standing(ledger, 2, doubt="why"))
    with pytest.raises(LedgerInDoubt):
        ledger.leases.claim("w", 30, sure=True)
    assert not ledger.jobs.held(ref)
    lease = ledger.leases.claim("w", 30)
    assert lease is not None
    assert lease.job.ref == ref


def test_what_a_restarted_redis_gave_is_given_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """It restarts after it was asked which it is, and before it is asked for a job."""
    ref = _waiting_job(ledger)
    ledger.generations.write(None, _standing(ledger))
    run = ledger.store.run

    def restarting(name: str, /, *more: Argument, **named: Argument) -> object:
        if name == "claim":
            _restart(ledger, monkeypatch)
        return run(name, *more, **named)

    monkeypatch.setattr(ledger.store, "run", restarting)
    with pytest.raises(LedgerInDoubt):
        ledger.leases.claim("w", 30, sure=True)
    assert not ledger.jobs.held(ref)


def test_a_ledger_without_a_generation_is_claimed_from(ledger: Ledger) -> None:
    _waiting_job(ledger)
    assert ledger.leases.claim("w", 30, sure=True) is not None
