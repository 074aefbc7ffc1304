"""Workers of neighbouring versions go on with each other's batches; what is too new is put back as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.deployment.broker import EXPAND, celery_app
from pipeline.errors import RecordTooNew, RecordUnreadable
from pipeline.records.attempt import AttemptSpec, Code, PodReport
from pipeline.records.batch import AttemptEnd, BatchManifest, changed
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import FailureCode, ImageFailure, failure_of, parsed_outcomes
from pipeline.records.shards import ImageTask
from pipeline.schema import Versioned, read_record
from pipeline.states import BatchState, JobState
from tasks import app as tasks_app
from tasks.control.expand import expand
from tasks.control.tick import delete_orphans, recover_batches, request_next_step
from tests.factories import at, attempt_spec, batch_record, deployment, image_result, job_record, resolved_row
from tests.tasks.stage import SUCCEEDED, Stage

Change = Callable[[dict[str, Any]], dict[str, Any]]


def newer(by: int) -> Change:
    """As a version so many ahead writes it: another number and a field that nobody here knows, at every level."""

    def change(record: dict[str, Any]) -> dict[str, Any]:
        return {
            **{name: change(value) if isinstance(value, dict) and "schema_version" in value else value
               for name, value in record.items()},
            "schema_version": record["schema_version"] + by,
            "colour_of_the_future": {"deep": [1, None]},
        }  # fmt: skip

    return change


def older(record: dict[str, Any]) -> dict[str, Any]:
    """As the version before wrote it: without what has a default, under a lower number."""
    return {"schema_version": record["schema_version"] - 1} | {
        name: value for name, value in record.items() if name not in ("schema_version", "avoid_nodes", "image_pin")
    }


def rewrite(text: str | bytes, change: Change) -> str:
    return json.dumps(change(json.loads(text)), separators=(",", ":"))


def rewrite_ledger(stage: Stage, change: Change, *keys: str) -> None:
    redis = stage.ledger.store.redis
    for key in keys:
        redis.hset(key, "record", rewrite(redis.hget(key, "record"), change))


RECORDS: list[Versioned] = [
    batch_record(),
    batch_record().manifest,
    job_record(),
    job_record(attempt=attempt_spec(job_record())),
    attempt_spec(job_record()),
    resolved_row(),
    deployment(),
    image_result(ImageTask(resolved_row(), 0)),
    failure_of(ImageTask(resolved_row(), 0), FailureCode.BLACK, "dark", retryable=True),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("change", [newer(1), newer(0), older], ids=["newer", "same with more", "older"])
def test_a_record_of_a_neighbouring_version_is_read(record: Versioned, change: Change) -> None:
    read = read_record(type(record), rewrite(record.model_dump_json(), change), what="b")
    known = set(type(record).model_fields) - {"schema_version", "manifest", "attempt"}
    assert read.model_dump(include=known) == record.model_dump(include=known)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_that_is_too_new_is_refused_with_a_clear_error(record: Versioned) -> None:
    message = r"\w+ of schema version 3 found; this version of Tessera reads up to 2\. It was left as it is"
    with pytest.raises(RecordTooNew, match=message):
        read_record(type(record), rewrite(record.model_dump_json(), newer(2)), what="b")


@pytest.mark.parametrize("record", [batch_record(), job_record(attempt=attempt_spec(job_record()))])
def test_the_ledgers_records_keep_what_a_newer_version_wrote(record: Any) -> None:
    """Also inside: an older worker's write must not take it away."""
    text = rewrite(record.model_dump_json(), newer(1))
    again = changed(read_record(type(record), text, what="b"), at=at(1))
    expected = json.loads(text) | {"revision": 2, "updated_at": "2026-01-02T03:04:06Z"}
    assert json.loads(again.model_dump_json()) == expected


def test_the_spec_of_a_newer_version_reaches_its_pod_whole_and_is_the_same_attempt() -> None:
    text = rewrite(attempt_spec(job_record()).model_dump_json(), newer(1))
    spec = read_record(AttemptSpec, text, what="a spec")
    assert json.loads(spec.model_dump_json()) == json.loads(text)
    assert read_record(AttemptSpec, spec.model_dump_json(), what="a spec").digest == spec.digest
    assert read_record(AttemptSpec, rewrite(text, newer(0)), what="a spec").digest == spec.digest


def test_a_newer_batch_is_rendered_to_its_end_by_workers_of_today(stage: Stage) -> None:
    """Its record, its rows, its jobs, its recorded attempt and its pod's fragment are all of the next version."""
    stage.accepted(4)
    keys, objects = stage.ledger.store.keys, BatchObjects("b")
    manifest = stage.ledger.batches.get("b").manifest
    key = objects.input(manifest.staged)
    body = "".join(rewrite(line, newer(1)) + "\n" for line in stage.artifacts.lines(key)).encode()
    stage.artifacts.put(key, body, content_type="text/plain")
    pinned = {"input_sha256": hashlib.sha256(body).hexdigest()}
    rewrite_ledger(stage, lambda r: newer(1)(r | {"manifest": r["manifest"] | pinned}), keys.batch("b"))
    expand(stage.worker, "b")
    assert "colour_of_the_future" in (stage.artifacts.get(objects.shard(0)) or b"").decode()

    def play(spec: AttemptSpec) -> Any:
        def work() -> None:
            pod = stage.pod(spec)
            assert pod.register() is None
            pod.commit(pod.tasks)
            lines = [rewrite(outcome.model_dump_json(), newer(1)) for outcome in pod.outcomes]
            fragment = objects.fragment(spec.job_index)
            stage.artifacts.put(fragment, ("\n".join(lines) + "\n").encode(), content_type="text/plain")

        return [work, SUCCEEDED]

    stage.node.play = play
    rewrite_ledger(stage, newer(1), keys.job("b/00000"), keys.job("b/00001"))
    stage.work()
    stage.finalized()
    assert stage.batch_state() is BatchState.COMPLETED
    assert [line["status"] for line in stage.lines("results.jsonl")] == ["succeeded"] * 4
    for text in (stage.ledger.batches.get("b").model_dump_json(), stage.job().model_dump_json()):
        assert json.loads(text)["colour_of_the_future"] == {"deep": [1, None]}
        assert json.loads(text)["schema_version"] == 2


def test_a_batch_whose_rows_are_too_new_waits_and_is_expanded_by_who_can(stage: Stage) -> None:
    stage.accepted(2)
    manifest = stage.ledger.batches.get("b").manifest
    key = BatchObjects("b").input(manifest.staged)
    good = stage.artifacts.get(key) or b""
    stage.artifacts.put(
        key, "".join(rewrite(line, newer(2)) + "\n" for line in good.splitlines()).encode(), content_type="text/plain"
    )
    with pytest.raises(RecordTooNew):
        expand(stage.worker, "b")
    assert stage.batch_state() is BatchState.VALIDATING
    stage.artifacts.put(key, good, content_type="text/plain")
    expand(stage.worker, "b")
    assert stage.batch_state() is BatchState.IN_PROGRESS


def test_rows_that_another_version_accepted_and_this_one_cannot_read_do_not_fail_the_batch(stage: Stage) -> None:
    stage.accepted(2)
    key = BatchObjects("b").input(stage.ledger.batches.get("b").manifest.staged)
    body = b'{"schema_version":2,"row":0,"prompt":["of another kind"]}\n'
    stage.artifacts.put(key, body, content_type="text/plain")
    pinned = {"input_sha256": hashlib.sha256(body).hexdigest()}
    rewrite_ledger(stage, lambda r: r | {"manifest": r["manifest"] | pinned}, stage.ledger.store.keys.batch("b"))
    with pytest.raises(RecordUnreadable, match="a row that this version of Tessera cannot read"):
        expand(stage.worker, "b")
    assert stage.batch_state() is BatchState.VALIDATING


def test_a_job_that_is_too_new_is_put_back_and_not_failed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ledger.leases.UNREADABLE_DELAY_S", 0.3)
    stage.batch(1)
    redis, key = stage.ledger.store.redis, stage.ledger.store.keys.job("b/00000")
    before = redis.hgetall(key)
    rewrite_ledger(stage, newer(2), key)
    tasks_app._bind(stage.worker, "render", tasks_app.render)()
    assert not stage.ledger.jobs.held("b/00000")
    assert redis.hget(key, "state") == JobState.QUEUED.value
    redis.hset(key, "record", before["record"])
    stage.work()
    assert stage.state() is JobState.SUCCEEDED


def test_one_batch_that_is_too_new_keeps_the_controller_from_no_other(stage: Stage) -> None:
    stage.batch(1, "new")
    stage.batch(1, "b")
    keys = stage.ledger.store.keys
    rewrite_ledger(stage, newer(2), keys.job("new/00000"))
    for batch_id in ("new", "b"):
        spec = attempt_spec(job_record(batch_id, incarnation=batch_id), number=9)
        stage.node.put(spec)
    delete_orphans(stage.worker)
    assert stage.node.deleted == [attempt_spec(job_record("b", incarnation="b"), number=9).name]
    rewrite_ledger(stage, newer(2), keys.batch("new"))
    with pytest.raises(RecordTooNew):
        request_next_step(stage.worker, "new")
    objects = BatchObjects("later")
    text = rewrite(batch_record("later").manifest.model_dump_json(), newer(2))
    stage.artifacts.put(objects.manifest, text.encode(), content_type="application/json")
    stage.ledger.store.redis.delete(keys.batch("b"))
    recover_batches(stage.worker)
    assert not stage.ledger.batches.known("later")
    assert stage.ledger.batches.known("b")


def test_a_hint_with_more_in_it_than_we_know_is_followed(stage: Stage) -> None:
    stage.accepted(1)
    app = celery_app(stage.settings)
    tasks_app.register(app, stage.worker)
    app.tasks[EXPAND]("b", "of the future", since="tomorrow")
    assert stage.batch_state() is BatchState.IN_PROGRESS


def test_codes_of_a_newer_version_keep_their_names() -> None:
    failure = failure_of(ImageTask(resolved_row(), 0), FailureCode.BLACK, "m", retryable=True)
    text = failure.model_dump_json().replace("E_BLACK", "E_OF_TOMORROW")
    [read] = parsed_outcomes([text.encode()], "a fragment", BatchObjects("b"))
    assert isinstance(read, ImageFailure)
    assert read.code.value == "E_OF_TOMORROW"
    assert read.model_dump_json() == text
    report = PodReport.model_validate_json('{"schema_version": 9, "code": "SOLAR_FLARE", "message": "x", "more": 1}')
    assert (report.code, report.message) == (Code.UNKNOWN, "x")
    end = {"number": 1, "code": "SOLAR_FLARE", "reason": "r", "ended_at": "2026-01-02T03:04:05Z"}
    assert read_record(AttemptEnd, json.dumps(end), what="an end").code.value == "SOLAR_FLARE"
    for hostile in ("", "lower", "A" * 41, "\x1b[2J", "A B"):
        with pytest.raises(ValueError, match="code"):
            PodReport.model_validate_json(json.dumps({"code": hostile}))


def test_a_running_batch_keeps_its_image_when_the_deployment_is_upgraded(stage: Stage) -> None:
    images: list[str] = []
    stage.node.play = lambda spec: images.append(spec.image) or [SUCCEEDED]  # type: ignore[func-returns-value]
    old, new = "r.example/engine@sha256:old", "r.example/engine@sha256:new"
    stage.ledger.announce(stage.ledger.deployment().model_copy(update={"image": old}))
    stage.batch(1, "b")
    upgraded = stage.new_worker("w2", image=new, max_attempts=1)
    stage.ledger.announce(stage.ledger.deployment().model_copy(update={"image": new}))
    stage.batch(1, "later")
    for batch_id in ("b", "later"):
        stage.work(batch_id, upgraded)
    assert sorted(images) == sorted([old, new])
    assert read_record(BatchManifest, stage.artifacts.get(BatchObjects("b").manifest) or b"", what="b").image == old


def test_a_batch_without_a_pinned_image_gets_the_deployments(stage: Stage) -> None:
    stage.ledger.announce(stage.ledger.deployment().model_copy(update={"image": None}))
    stage.batch(1)
    stage.work()
    attempt = stage.job().attempt
    assert attempt is not None
    assert attempt.image == stage.settings.image
