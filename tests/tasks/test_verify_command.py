"""`tessera verify`, `Batch.verify` and `tessera resume`, against a real Redis and a real bucket."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pipeline import Client, DiscrepancyKind, UnknownBatch
from pipeline.cli.main import app
from pipeline.client.connect import Connection
from pipeline.client.doctor import examine_connection
from pipeline.operations.repair import request_repair
from pipeline.operations.verify import verify
from pipeline.operations.verify_job import JobCheck, JobSeen
from pipeline.records.batch import Repair
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tasks.control.reconcile import reconcile
from tasks.control.wake import look
from tests.tasks.stage import Stage

OBJECTS = BatchObjects("b")


@pytest.fixture
def finished(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    for name, value in stage.settings.environment().items():
        monkeypatch.setenv(name, value)
    stage.batch(3)
    stage.work()
    stage.finalized()
    return stage


def _run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "240"}, standalone_mode=False)
    return done.return_value, done.output


def test_of_a_batch_that_is_well_it_says_so(finished: Stage) -> None:
    assert finished.ledger.batches.known("b")
    code, said = _run("verify", "b", "--deep")
    assert (code, "nothing is wrong" in said, "3 files read" in said) == (0, True, True)


def test_what_is_wrong_is_said_with_its_harm_and_its_repair_and_repaired_when_asked(finished: Stage) -> None:
    marker = OBJECTS.marker(BatchState.COMPLETED)
    finished.artifacts.delete(marker)
    code, said = _run("verify", "b")
    assert code == 3
    assert all(text in said for text in ("marker_gone", "pictures are safe", "finalized again", marker, "--repair"))
    assert finished.ledger.batches.get("b").repair is None
    code, said = _run("verify", "b", "--repair", "--json")
    assert (code, json.loads(said)["repair"]) == (3, True)
    [found] = json.loads(said)["discrepancies"]
    assert found == {
        "kind": "marker_gone",
        "count": 1,
        "examples": [marker],
        "harm": "none",
        "repair": "finalized again",
    }
    look(finished.worker, "b")
    assert "tessera.reconcile" in finished.hints()


def test_the_client_says_what_is_wrong_and_has_it_repaired(finished: Stage) -> None:
    finished.artifacts.delete(OBJECTS.fragment(0))
    batch = Client().batch("b")
    found = batch.verify(repair=True, sample=1)
    assert [one.kind for one in found.discrepancies] == [DiscrepancyKind.FRAGMENT_DIFFERS]
    assert finished.ledger.batches.get("b").repair == "files"
    with pytest.raises(UnknownBatch):
        Client().batch("never").verify()


def test_resume_finds_batches_about_whose_end_redis_and_bucket_differ(finished: Stage) -> None:
    assert Client().resume() == []
    finished.artifacts.delete(OBJECTS.marker(BatchState.COMPLETED))
    assert Client().resume() == ["b"]
    assert finished.ledger.batches.get("b").repair == "objects"
    reconcile(finished.worker, "b")
    assert finished.batch_state() is BatchState.VALIDATING


def test_status_list_and_doctor_say_what_is_being_repaired_and_that_the_ledger_is_in_doubt(finished: Stage) -> None:
    code, said = _run("status", "b")
    assert (code, "repair" in said, "ledger" in said) == (0, False, False)
    requested = "a repair is requested: the controller compares it with the bucket"
    request_repair(finished.ledger, finished.artifacts, "b", Repair.OBJECTS)
    assert f"  {requested}\n" in _run("status", "b")[1]
    assert f"b: {requested}\n" in _run("list")[1]
    connection = Connection(finished.settings, finished.ledger, finished.artifacts)
    assert [one.found for one in examine_connection(connection) if one.what == "batches"] == [
        f"1 of them: b: {requested}"
    ]
    finished.artifacts.delete(OBJECTS.fragment(0))
    reconcile(finished.worker, "b")
    assert "  it is being rebuilt from the bucket\n" in _run("status", "b")[1]
    store = finished.ledger.store
    store.redis.hset(store.keys.generation, mapping={"doubt": "Redis was put back", "since_ms": 1_764_000_000_000})
    doubt = "is compared with the bucket since 2025-11-24 16:00:00 UTC: Redis was put back"
    for command in ("status", "list"):
        said = _run(*([command, "b"] if command == "status" else [command]))[1]
        assert f"the ledger {doubt}; until that is done nothing is begun, ended, purged or fired\n" in said
    assert json.loads(_run("status", "b", "--json")[1])["ledger_doubt"] == doubt


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The jobs that were looked at; a hundred are too many."""
    jobs: list[int] = []
    look = JobCheck.look

    def noted(check: JobCheck, index: int) -> JobSeen:
        jobs.append(index)
        assert len(jobs) < 100
        return look(check, index)

    monkeypatch.setattr(JobCheck, "look", noted)
    return jobs


@pytest.mark.parametrize("foreign", ["20261129.jsonl.bak", "20261129.jsonl", "1.jsonl", "x.jsonl"])
@pytest.mark.parametrize("folder", [OBJECTS.shards, OBJECTS.fragments])
def test_a_foreign_name_among_those_of_jobs_is_no_job(
    finished: Stage, looked_at: list[int], folder: str, foreign: str
) -> None:
    finished.artifacts.put(OBJECTS.marker(BatchState.COMPLETED), b"", content_type="application/json")  # no number
    finished.ledger.batches.remove(finished.ledger.batches.get("b"))
    finished.artifacts.put(f"{folder}{foreign}", b"", content_type="application/x-ndjson")
    found = verify(finished.ledger, finished.artifacts, "b")
    assert set(looked_at) == {0}
    assert [one.kind for one in found.discrepancies] == [DiscrepancyKind.UNKNOWN_TO_REDIS]


def test_a_marker_of_more_jobs_than_images_costs_no_look_at_each(finished: Stage, looked_at: list[int]) -> None:
    key = OBJECTS.marker(BatchState.COMPLETED)
    marker = json.loads(finished.artifacts.get(key) or b"")
    marker["vouched"] |= {"jobs": 10**6, "images": 10**6}
    finished.artifacts.put(key, json.dumps(marker).encode(), content_type="application/json")
    finished.ledger.batches.remove(finished.ledger.batches.get("b"))
    found = verify(finished.ledger, finished.artifacts, "b")
    assert len(looked_at) <= 2 * 3
    assert DiscrepancyKind.MARKER_DIFFERS in [one.kind for one in found.discrepancies]
