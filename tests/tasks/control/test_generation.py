"""A ledger that was emptied, rolled back or restarted is in doubt until it has been compared with the bucket."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from pipeline.bucket.artifacts import Artifacts
from pipeline.client.connect import Connection
from pipeline.client.doctor import Verdict, examine_connection
from pipeline.deployment.broker import EXPAND, VERIFY_LEDGER, celery_app
from pipeline.errors import StoreUnavailable
from pipeline.ledger.generations import Generations, Standing
from pipeline.records.generation import LEDGER_KEY, Generation
from pipeline.schema import read_record
from tasks.app import register
from tasks.control import generation
from tasks.control.generation import check_ledger, doubt
from tasks.control.verify_ledger import verify_ledger
from tests.rollback import Snapshot
from tests.tasks.stage import Stage

HERE, ELSEWHERE = "run/history", "another/history"


def _at(token: str, sequence: int) -> Generation:
    return Generation(token=token, sequence=sequence)


@pytest.mark.parametrize(
    ("standing", "stored", "why"),
    [
        (None, None, None),  # the first start, or of the first version that counts
        (None, _at("t", 5), "emptied, or is another one"),
        (Standing(_at("t", 5), HERE), None, None),  # nobody has written the bucket's yet, or it is gone
        (Standing(_at("t", 5), HERE), _at("t", 5), None),
        (Standing(_at("t", 6), HERE), _at("t", 5), None),  # S3 was away, or a controller died in between
        (Standing(_at("t", 5), HERE), _at("t", 8), "3 ticks of the controller behind"),
        (Standing(_at("old", 9), HERE), _at("t", 5), "another ledger than the bucket knows"),
        (Standing(_at("t", 5), ELSEWHERE), _at("t", 5), "restarted or failed over"),
        (Standing(_at("t", 5), ELSEWHERE), None, "restarted or failed over"),
        (Standing(_at("t", 5), "", "known"), _at("t", 5), None),  # it is being compared
        (Standing(_at("t", 5), "", "known"), _at("t", 6), "behind the bucket"),
    ],
)
def test_what_speaks_against_a_ledger(standing: Standing | None, stored: Generation | None, why: str | None) -> None:
    found = doubt(standing, stored, HERE)
    assert found is None if why is None else why in (found or "")


@pytest.fixture(autouse=True)
def _every_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "BUCKET_EVERY_S", 0.0)


def _stored(stage: Stage) -> Generation:
    body = stage.artifacts.get(LEDGER_KEY)
    assert body is not None
    return read_record(Generation, body, what=LEDGER_KEY)


def test_a_healthy_ledger_counts_on_in_both_places_and_is_believed(stage: Stage) -> None:
    for _ in range(3):
        assert check_ledger(stage.worker)
    standing = stage.ledger.generations.read()
    assert standing is not None
    assert _stored(stage) == standing.generation
    assert standing.generation.sequence == 4  # the first when the controller started
    assert VERIFY_LEDGER not in stage.hints()


def _emptied(stage: Stage) -> None:
    keys = list(stage.ledger.store.redis.scan_iter(match=f"{stage.settings.redis_prefix}:*"))
    stage.ledger.store.redis.delete(*keys)


def _rolled_back(stage: Stage) -> None:
    before = Snapshot.of(stage.settings)
    assert check_ledger(stage.worker)
    before.restore()


def _restarted(stage: Stage) -> None:
    stage.ledger.store.redis.hset(stage.ledger.store.keys.generation, "server", "before its restart")


@pytest.mark.parametrize("harm", [_emptied, _rolled_back, _restarted])
def test_a_ledger_in_doubt_is_reported_once_and_believed_again_after_the_comparison(
    stage: Stage, harm: Callable[[Stage], None]
) -> None:
    assert check_ledger(stage.worker)
    before = _stored(stage)
    harm(stage)
    with capture_logs() as lines:
        assert not check_ledger(stage.worker)
        assert not check_ledger(stage.worker)
    warnings = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert warnings == ["the ledger may have been rolled back; it is compared with the bucket"]
    assert stage.worker.metrics.registry.get_sample_value("tessera_ledger_doubts_total") == 1
    assert VERIFY_LEDGER in stage.hints()
    standing = stage.ledger.generations.read()
    assert standing is not None
    assert standing.generation.token != before.token
    assert standing.generation.sequence > before.sequence
    verify_ledger(stage.worker)
    assert check_ledger(stage.worker)
    assert _stored(stage).token == standing.generation.token


def test_nothing_that_cannot_be_undone_is_done_by_a_ledger_in_doubt(stage: Stage) -> None:
    check_ledger(stage.worker)
    stage.accepted(3)
    _restarted(stage)
    app = celery_app(stage.settings)
    register(app, stage.worker)
    app.tasks[EXPAND]("b")
    assert stage.ledger.batches.get("b").jobs is None
    check_ledger(stage.worker)
    verify_ledger(stage.worker)
    app.tasks[EXPAND]("b")
    assert stage.ledger.batches.get("b").jobs == 1


def test_a_ledger_that_is_rolled_back_again_while_it_is_verified_stays_in_doubt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_ledger(stage.worker)
    _restarted(stage)
    check_ledger(stage.worker)
    stage.accepted(3)
    unfinished = stage.ledger.batches.unfinished

    def meanwhile() -> list[str]:
        monkeypatch.setattr(Generations, "server", lambda _: "restarted/meanwhile")
        return unfinished()

    monkeypatch.setattr(stage.worker.ledger.batches, "unfinished", meanwhile)
    verify_ledger(stage.worker)
    assert stage.ledger.generations.is_in_doubt()
    monkeypatch.undo()
    verify_ledger(stage.worker)
    assert not stage.ledger.generations.is_in_doubt()


def test_an_outage_of_s3_changes_nothing_and_what_was_counted_meanwhile_is_no_rollback(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_ledger(stage.worker)

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(Artifacts, "get_tagged", away)
        assert check_ledger(stage.worker)
    with monkeypatch.context() as outage:
        outage.setattr(Artifacts, "put_new", away)
        assert check_ledger(stage.worker)
    assert check_ledger(stage.worker)


@pytest.mark.parametrize("body", [None, b"", b"{}", b"\xff"])
def test_a_record_in_the_bucket_that_is_gone_or_damaged_is_written_again(stage: Stage, body: bytes | None) -> None:
    assert check_ledger(stage.worker)
    if body is None:
        stage.artifacts.delete(LEDGER_KEY)
    else:
        stage.artifacts.put(LEDGER_KEY, body, content_type="application/json")
    assert check_ledger(stage.worker)
    assert _stored(stage).sequence == 3


def test_what_another_controller_counts_between_two_looks_is_no_rollback(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_ledger(stage.worker)
    other, get = stage.new_worker("other"), Artifacts.get_tagged

    def meanwhile(artifacts: Artifacts, key: str) -> object:
        found = get(artifacts, key)
        monkeypatch.setattr(Artifacts, "get_tagged", get)
        assert check_ledger(other)
        return found

    monkeypatch.setattr(Artifacts, "get_tagged", meanwhile)
    assert check_ledger(stage.worker)
    assert check_ledger(other)
    assert _stored(stage).token == (stage.ledger.generations.read() or Standing(_at("", 0), "")).generation.token


def test_two_releases_in_one_bucket_count_apart(stage: Stage) -> None:
    names = {"redis_prefix": stage.settings.redis_prefix + "-2", "s3_prefix": stage.settings.s3_prefix + "-2"}
    other = Stage(stage.settings.model_copy(update=names))
    for _ in range(2):
        assert check_ledger(stage.worker)
        assert check_ledger(other.worker)
    assert _stored(stage).token != _stored(other).token


def test_doctor_says_whether_the_ledger_is_in_doubt_and_why(stage: Stage) -> None:
    connection = Connection(stage.settings, stage.ledger, stage.artifacts)

    def finding() -> tuple[Verdict, str]:
        (found,) = [one for one in examine_connection(connection) if one.what == "ledger"]
        return found.verdict, found.found

    assert check_ledger(stage.worker)
    assert finding() == (Verdict.OK, "agrees with the bucket as far as is known")
    _restarted(stage)
    check_ledger(stage.worker)
    verdict, found = finding()
    assert verdict is Verdict.WARNING
    assert "is compared with the bucket since" in found
    assert "restarted or failed over" in found
