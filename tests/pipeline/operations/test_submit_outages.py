"""`submit` ends with a clear error within its time, whatever Redis and S3 do, and never accepts half a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline import Client
from pipeline.bucket.artifacts import Artifacts
from pipeline.client.connect import Connection
from pipeline.deployment.settings import Settings
from pipeline.errors import AcceptanceUnknown, LedgerUnavailable, ServiceError, StoreRefused, StoreUnavailable
from pipeline.ledger import Ledger
from pipeline.operations.submit import Acceptance, Submission, accept, checked_options
from pipeline.process.deadline import Deadline, OutOfTime
from pipeline.records.batch import BatchManifest
from pipeline.records.object_keys import BatchObjects
from pipeline.schema import read_record
from pipeline.states import BatchState
from tests.factories import deployment
from tests.wire import Wire, wire

# Enough for a busy machine to reach the last step; without a bound it would be minutes.
TIMEOUT_S, LONGEST_S = 12.0, 60.0
ROWS = [{"prompt": f"p{number} " + "x" * 5_000} for number in range(40)]


class Lines:
    """The lines to a deployment's Redis and S3, and a client at the end of them."""

    def __init__(self, settings: Settings, redis: Wire, s3: Wire) -> None:
        self.redis, self.s3 = redis, s3
        url = settings.redis_url.get_secret_value()
        self.settings = settings.model_validate(
            settings.model_dump()
            | {
                "redis_url": url.replace(f":{urlsplit(url).port}/", f":{redis.port}/"),
                "s3_endpoint": f"http://127.0.0.1:{s3.port}",
            }
        )
        self.ledger, self.artifacts = Ledger(settings), Artifacts(settings)  # around the lines
        self.ledger.announce(deployment())

    def submit(self, **changes: Any) -> Acceptance:
        ledger, artifacts = Ledger(self.settings), Artifacts(self.settings)
        values: dict[str, Any] = {
            "prompts": ROWS,
            "defaults": checked_options({}),
            "batch_id": "b",
            "timeout_s": TIMEOUT_S,
        }
        return accept(Submission(**(values | {"timeout_s": TIMEOUT_S} | changes)), ledger, artifacts)

    def accepted(self) -> bool:
        return self.artifacts.head(BatchObjects("b").manifest) is not None


@pytest.fixture
def lines(settings: Settings) -> Iterator[Lines]:
    ports = [urlsplit(url).port or 0 for url in (settings.redis_url.get_secret_value(), settings.s3_endpoint or "")]
    with wire(ports[0]) as redis, wire(ports[1]) as s3:
        yield Lines(settings, redis, s3)


def test_through_lines_that_work_a_batch_is_accepted(lines: Lines) -> None:
    assert lines.submit(timeout_s=60).recorded


@pytest.mark.parametrize("which", ["redis", "s3"])
@pytest.mark.parametrize("mode", ["hang", "cut"])
def test_a_service_that_is_away_or_half_open_is_named_in_time_and_nothing_is_accepted(
    lines: Lines, which: str, mode: Any
) -> None:
    getattr(lines, which).turn(mode)
    began = time.monotonic()
    with pytest.raises(ServiceError, match="(?i)redis at" if which == "redis" else "S3 at") as error:
        lines.submit()
    assert time.monotonic() - began < LONGEST_S
    assert "SECRET" not in str(error.value)
    assert list(lines.artifacts.list("")) == []
    assert lines.ledger.batches.unfinished() == []


@pytest.mark.parametrize("mode", ["hang", "cut"])
def test_a_store_that_goes_while_rows_are_written_leaves_no_batch_and_the_next_try_is_whole(
    lines: Lines, mode: Any
) -> None:
    lines.s3.turn_at(rb"PUT \S*/input\.jsonl", mode)
    with pytest.raises((OutOfTime, StoreUnavailable)) as error:
        lines.submit()
    assert not isinstance(error.value, AcceptanceUnknown)
    assert not lines.accepted()
    lines.s3.turn("pass")
    assert lines.submit(timeout_s=60).created
    assert lines.ledger.batches.state("b") is BatchState.VALIDATING


@pytest.mark.parametrize("after", [True, False])
def test_without_an_answer_to_the_accepting_request_the_error_says_how_to_find_out(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr("pipeline.operations.put_manifest.ASK_AGAIN_S", 1.0)
    lines.s3.turn_at(rb"PUT \S*/batch\.json", "hang", after=after)
    with pytest.raises(
        AcceptanceUnknown, match=r"whether batch b was accepted is not known.*gave up after 12 s"
    ) as error:
        lines.submit()
    assert error.value.batch_id == "b"
    lines.s3.turn("cut")
    lines.s3.turn("pass")
    again = lines.submit(timeout_s=60)
    # If it was not delivered, the first submission may still be asking by itself and be faster.
    assert again.recorded
    assert not (after and again.created)
    keys = list(lines.artifacts.list("batches/b/staged/"))
    assert BatchObjects("b").input(again.manifest.staged) in keys


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("mode", ["hang", "cut"])
def test_a_lost_answer_to_the_accepting_request_is_asked_for_again(lines: Lines, mode: Any, after: bool) -> None:
    """The store comes back: the batch is accepted once, by this very submission, and nobody sees an error."""
    lines.s3.turn_at(rb"PUT \S*/batch\.json", mode, after=after)
    began = time.monotonic()
    mended = threading.Thread(target=_mend, args=(lines.s3,))
    mended.start()
    accepted = lines.submit()
    mended.join()
    assert (accepted.created, accepted.recorded) == (True, True)
    assert time.monotonic() - began < LONGEST_S
    body = lines.artifacts.get(BatchObjects("b").manifest)
    assert body is not None
    assert read_record(BatchManifest, body, what="batch.json").staged == accepted.manifest.staged


def _mend(line: Wire) -> None:
    """Once the line has gone wrong, and a request was tried in vain, end what hangs and let all through."""
    while not line.wrong:
        time.sleep(0.01)
    time.sleep(0.2)
    line.turn("cut")
    line.turn("pass")


def test_a_redis_that_goes_after_acceptance_costs_nothing(lines: Lines) -> None:
    lines.redis.turn_at(rb"EVALSHA", "hang")
    accepted = lines.submit()
    assert (accepted.created, accepted.recorded) == (True, False)
    assert lines.accepted()


def test_a_redis_that_hangs_in_the_end_does_not_hold_up_who_submitted(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.client.client._WAKE_S", 0.5)
    client = Client(Connection(lines.settings, Ledger(lines.settings), Artifacts(lines.settings)))
    lines.redis.turn_at(rb":wakes", "hang")
    began = time.monotonic()
    assert client.submit(ROWS, batch_id="b", timeout_s=60).id == "b"
    assert time.monotonic() - began < LONGEST_S
    assert lines.ledger.batches.state("b") is BatchState.VALIDATING


def test_what_the_store_refuses_is_known_not_to_be_accepted(lines: Lines) -> None:
    elsewhere = lines.settings.model_copy(update={"s3_bucket": "nowhere"})
    with pytest.raises(StoreRefused, match="the bucket does not exist"):
        accept(Submission(ROWS, checked_options({}), "b", timeout_s=60), Ledger(lines.settings), Artifacts(elsewhere))


def test_patience_is_for_all_calls_together_and_says_what_it_waited_for() -> None:
    deadline = Deadline(0.3)
    assert deadline.call("asking", lambda: 1) == 1
    with pytest.raises(OutOfTime, match=r"gave up after 0\.3 s while waiting for nothing"):
        deadline.call("waiting for nothing", lambda: time.sleep(30))
    with pytest.raises(OutOfTime, match=r"gave up after 0\.3 s, before asking"):
        deadline.call("asking", lambda: 1)
    with pytest.raises(LedgerUnavailable, match="its own"):
        Deadline(5).call("asking", _refused)


def _refused() -> None:
    raise LedgerUnavailable("its own")
