"""Schedules fire: what is due, once, whatever is in the way, and what becomes of each firing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.deployment.tenants import TenantLimits
from pipeline.errors import RecordUnreadable, RequestError, StoreUnavailable
from pipeline.operations import schedules
from pipeline.operations.cancel import request_cancel
from pipeline.records.object_keys import BatchObjects
from pipeline.records.schedules.schedule import Firing, ScheduleRecord, changed, checked_spec, firing_id, new_record
from pipeline.records.schedules.schedule_keys import ScheduleObjects
from pipeline.schema import read_record
from pipeline.states import BatchState, ImageState
from tasks.control import tick
from tasks.control.expand import expand
from tasks.control.fire import fire
from tasks.control.schedules import recover_schedules
from tasks.control.verify_ledger import verify_ledger
from tests.tasks.stage import Stage

ROWS = [{"custom_id": name, "prompt": f"a {name}", "width": 64, "height": 64} for name in ("tower", "hill", "sea")]


def put_prompts(stage: Stage, rows: Iterable[Mapping[str, Any] | str], name: str = "prompts.jsonl") -> str:
    """Put a prompt set into the bucket; returns its URL."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    stage.artifacts.put(name, text.encode(), content_type="application/x-ndjson")
    return f"s3://{stage.settings.s3_bucket}/{stage.settings.s3_prefix}/{name}"


# Far enough ahead that no firing comes due while a test runs.
MINUTE = (datetime.now(UTC).minute + 45) % 60
HOURLY = f"{MINUTE} * * * *"


def hours_ago(stage: Stage, count: int) -> datetime:
    """The last moment at which an hourly schedule was due, and so many hours before it."""
    now = stage.ledger.now()
    last = now.replace(minute=MINUTE, second=0, microsecond=0)
    return last - timedelta(hours=count + (last > now))


def schedule(stage: Stage, name: str = "nightly", *, hours: int = 0, **values: Any) -> ScheduleRecord:
    """A schedule that fires each hour, and did so last that many hours before the last full one."""
    values = {"cron": HOURLY, "prompts": values.pop("prompts", None) or put_prompts(stage, ROWS)} | values
    schedules.add(stage.ledger, stage.artifacts, name, checked_spec(values))
    return wind_back(stage, name, hours)


def wind_back(stage: Stage, name: str = "nightly", hours: int = 0) -> ScheduleRecord:
    """Let so many hours and the one that is over have passed without a firing."""
    record = stage.ledger.schedules.get(name)
    assert record is not None
    back = new_record(name, record.spec, hours_ago(stage, hours + 1)).model_copy(
        update={"revision": record.revision + 1, "open": record.open, "rows_key": record.rows_key}
    )
    stage.ledger.schedules.write(back)
    return back


def history(stage: Stage, name: str = "nightly") -> list[Firing]:
    """Oldest first."""
    return stage.ledger.schedules.firings(name)[::-1]


def outcomes(stage: Stage, name: str = "nightly") -> list[str]:
    return [firing.outcome.value for firing in history(stage, name)]


def batches(stage: Stage) -> list[str]:
    """Batches that are accepted in the bucket, in order of their ids."""
    found = stage.artifacts.folders("batches/")
    return [batch_id for batch_id in found if stage.artifacts.head(BatchObjects(batch_id).manifest)]


def rows_of(stage: Stage, batch_id: str) -> dict[str, dict[str, Any]]:
    staged = stage.ledger.batches.get(batch_id).manifest.staged
    lines = stage.artifacts.lines(BatchObjects(batch_id).input(staged))
    return {row["custom_id"]: row for row in map(json.loads, lines)}


def url_of(stage: Stage) -> str:
    record = stage.ledger.schedules.get("nightly")
    assert record is not None
    return record.spec.prompts


def again(stage: Stage, name: str = "nightly") -> Firing:
    """Fire once by hand; returns what became of it."""
    schedules.run_now(stage.ledger, name)
    fire(stage.worker, name)
    return stage.ledger.schedules.firings(name, 1)[0]


def complete(stage: Stage, batch_id: str) -> None:
    """Render a batch to its end."""
    expand(stage.worker, batch_id)
    stage.work(batch_id)
    stage.finalized(batch_id)


def test_a_due_firing_becomes_a_batch_named_for_schedule_and_moment(stage: Stage) -> None:
    schedule(stage, options={"steps": 7, "width": 128})
    due = hours_ago(stage, 0)
    fire(stage.worker, "nightly")
    assert batches(stage) == [firing_id("nightly", due)] == [f"nightly-{due:%Y%m%dT%H%M%SZ}"]
    [firing] = history(stage)
    assert (firing.outcome, firing.rows, firing.images, firing.fire_at) == ("submitted", 3, 3, due)
    manifest = stage.ledger.batches.get(firing.id).manifest
    assert manifest.origin is not None
    assert (manifest.origin.schedule, manifest.origin.fire_at) == ("nightly", due)
    row = rows_of(stage, firing.id)["tower"]
    assert (row["steps"], row["width"]) == (7, 64)  # the row wins over --set
    record = stage.ledger.schedules.get("nightly")
    assert record is not None
    assert record.next_at == due + timedelta(hours=1)
    assert "tessera.expand" in stage.hints()


def test_nothing_fires_before_its_time_or_while_it_is_paused(stage: Stage) -> None:
    schedule(stage, "yearly", cron="0 0 1 1 *")
    schedules.add(
        stage.ledger, stage.artifacts, "new", checked_spec({"cron": HOURLY, "prompts": put_prompts(stage, ROWS)})
    )
    fire(stage.worker, "new")
    schedule(stage, "held")
    schedules.pause(stage.ledger, stage.artifacts, "held")
    fire(stage.worker, "held")
    assert batches(stage) == []
    schedules.resume(stage.ledger, stage.artifacts, "held")
    fire(stage.worker, "held")
    assert outcomes(stage, "held") == []  # what was due while it was paused is not made up for


def test_the_tick_asks_for_what_is_due_and_for_nothing_else(stage: Stage) -> None:
    schedule(stage, "due")
    schedule(stage, "held")
    schedules.pause(stage.ledger, stage.artifacts, "held")
    schedule(stage, "later", cron="0 0 1 1 *")
    tick.tick(stage.worker)
    assert stage.hints() == ["tessera.fire"]


def test_a_firing_that_was_seen_to_is_not_seen_to_again(stage: Stage) -> None:
    schedule(stage)
    fire(stage.worker, "nightly")
    before = batches(stage)
    fire(stage.worker, "nightly")
    fire(stage.new_worker("w2"), "nightly")
    assert batches(stage) == before


def test_each_firing_reads_the_prompt_set_anew_and_gives_the_same_rows_the_same_seeds(stage: Stage) -> None:
    schedule(stage, cron="0 0 1 1 *", overlap="allow")
    first = again(stage)
    put_prompts(stage, [*ROWS, {"prompt": "a fourth", "custom_id": "fourth", "width": 64, "height": 64}])
    second = again(stage)
    assert (first.rows, second.rows) == (3, 4)
    seeds = [{name: row["seed"] for name, row in rows_of(stage, one.id).items()} for one in (first, second)]
    assert seeds[0].items() <= seeds[1].items()
    schedule(stage, "varied", cron="0 0 1 1 *", vary_seed=True, overlap="allow")
    varied = [rows_of(stage, again(stage, "varied").id)["tower"]["seed"] for _ in range(2)]
    assert len({*varied, seeds[0]["tower"]}) == 3


def test_options_and_overrides_of_a_schedule_reach_its_rows_and_what_does_not_is_in_its_history(stage: Stage) -> None:
    prompts = put_prompts(
        stage, [{"prompt": "a", "steps": 20, "custom_id": "own"}, {"prompt": "b", "custom_id": "none"}]
    )
    schedule(stage, cron="0 0 1 1 *", prompts=prompts, options={"steps": 3}, overrides={"size": "64x64"})
    fired = again(stage)
    assert fired.unreached == {"steps": 1}
    rows = rows_of(stage, fired.id)
    assert {name: (row["steps"], row["width"]) for name, row in rows.items()} == {"own": (20, 64), "none": (3, 64)}


def test_without_catch_up_only_the_latest_missed_firing_is_made_up_for(stage: Stage) -> None:
    schedule(stage, hours=30)
    fire(stage.worker, "nightly")
    missed, fired = history(stage)[:2]
    assert (missed.outcome, fired.outcome) == ("missed", "submitted")
    assert missed.reason is not None
    assert missed.reason.startswith("30 firings")
    assert fired.fire_at == missed.fire_at + timedelta(hours=1)
    assert batches(stage)[0] == fired.id


def test_with_catch_up_each_missed_firing_is_made_up_for_in_order(stage: Stage) -> None:
    schedule(stage, hours=4, catch_up=True, overlap="allow")
    fire(stage.worker, "nightly")
    fired = [firing.fire_at for firing in history(stage)]
    assert len(fired) >= 5
    assert fired == [fired[0] + timedelta(hours=i) for i in range(len(fired))]
    assert batches(stage) == [firing.id for firing in history(stage)]


def test_catching_up_has_a_bound(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.records.schedules.due.CATCH_UP_MOST", 2)
    schedule(stage, hours=6, catch_up=True, overlap="allow")
    fire(stage.worker, "nightly")
    assert outcomes(stage)[:3] == ["missed", "submitted", "submitted"]
    assert history(stage)[0].reason == "5 firings up to this one came too late to be made up for"


def test_with_forbid_a_firing_is_skipped_while_the_one_before_runs(stage: Stage) -> None:
    schedule(stage, cron="0 0 1 1 *", overlap="forbid")
    first, second = again(stage), again(stage)
    assert (first.outcome, second.outcome) == ("submitted", "skipped")
    assert second.reason == f"batch {first.id} is validating with 0 of 3 images done; overlap is forbid"
    complete(stage, first.id)
    assert again(stage).outcome == "submitted"


def test_with_forbid_and_catch_up_missed_firings_wait_for_the_one_before(stage: Stage) -> None:
    schedule(stage, hours=5, catch_up=True)
    for number in range(1, 4):
        fire(stage.worker, "nightly")
        fire(stage.worker, "nightly")
        assert outcomes(stage) == ["submitted"] * number
        complete(stage, history(stage)[-1].id)
    first, second, third = history(stage)
    assert second.fire_at - first.fire_at == third.fire_at - second.fire_at == timedelta(hours=1)


def test_with_allow_both_run(stage: Stage) -> None:
    schedule(stage, cron="0 0 1 1 *", overlap="allow")
    first, second = again(stage), again(stage)
    states = [stage.batch_state(one.id) for one in (first, second)]
    assert states == [BatchState.VALIDATING] * 2


def test_with_replace_the_one_before_is_cancelled_once_the_new_one_is_accepted(stage: Stage) -> None:
    schedule(stage, cron="0 0 1 1 *", overlap="replace")
    first = again(stage)
    put_prompts(stage, ["{broken"])
    assert again(stage).outcome == "failed"
    assert stage.batch_state(first.id) is BatchState.VALIDATING
    put_prompts(stage, ROWS)
    third = again(stage)
    assert third.replaced == (first.id,)
    assert stage.batch_state(first.id) is BatchState.CANCELLING
    assert stage.batch_state(third.id) is BatchState.VALIDATING


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("missing.jsonl", "missing.jsonl: no such"),
        ("invalid.jsonl", "line 2: widht: unknown field"),
        ("empty.jsonl", "no rows found"),
    ],
)
def test_a_firing_that_fails_says_why_and_does_not_stop_later_ones(stage: Stage, prompts: str, said: str) -> None:
    url = put_prompts(stage, ROWS, "prompts.jsonl").replace("prompts.jsonl", prompts)
    put_prompts(stage, [ROWS[0], {"prompt": "x", "widht": 64}], "invalid.jsonl")
    put_prompts(stage, [], "empty.jsonl")
    schedule(stage, prompts=url)
    fire(stage.worker, "nightly")
    failed = history(stage)[0]
    assert failed.outcome == "failed"
    assert said in (failed.reason or "")
    assert batches(stage) == []
    schedules.add(
        stage.ledger,
        stage.artifacts,
        "nightly",
        checked_spec({"cron": HOURLY, "prompts": put_prompts(stage, ROWS)}),
        update=True,
    )
    wind_back(stage)
    assert again(stage).outcome == "submitted"


def test_a_set_whose_name_does_not_say_what_it_is_is_refused_when_it_is_added(stage: Stage) -> None:
    with pytest.raises(RequestError, match=r"nightly' found; a key that ends in \.jsonl"):
        schedule(stage, prompts="s3://My_Bucket/prompts/nightly")
    assert stage.ledger.schedules.get("nightly") is None


def test_a_failure_of_our_own_does_not_come_again_at_every_tick(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule(stage, prompts=put_prompts(stage, ROWS))
    with monkeypatch.context() as broken:
        broken.setattr("tasks.control.fire.accept", lambda *_: 1 // 0)
        fire(stage.worker, "nightly")
    failed = history(stage)[0]
    assert (failed.outcome, batches(stage)) == ("failed", [])
    assert "ZeroDivisionError" in (failed.reason or "")
    wind_back(stage)
    assert again(stage).outcome == "submitted"


ELSEWHERE = "s3://no-such-bucket-of-ours/prompts.jsonl"


def put_record(stage: Stage, **values: Any) -> None:
    """A schedule as whoever may write Redis puts it there, past all checks of a client."""
    spec = checked_spec({"cron": HOURLY, "prompts": ELSEWHERE} | values)
    assert stage.ledger.schedules.create(new_record("nightly", spec, hours_ago(stage, 1)))


def test_prompts_in_a_bucket_that_is_not_for_them_are_refused_where_a_schedule_is_added_and_where_it_is_read(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = stage.settings.s3_bucket
    with pytest.raises(RequestError, match=rf"'no-such-bucket-of-ours' found; tenant 'default' may have them in {own}"):
        schedule(stage, prompts=ELSEWHERE)
    monkeypatch.setattr(stage.worker.artifacts, "chunks_of", lambda url: pytest.fail(f"{url} was read"))
    put_record(stage)
    fire(stage.worker, "nightly")
    assert outcomes(stage) == ["failed"]
    assert "add the bucket to TESSERA_PROMPT_BUCKETS" in (history(stage)[0].reason or "")


def test_a_schedule_whose_prompts_move_to_another_bucket_stops(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    record = schedule(stage)
    spec = record.spec.model_copy(update={"prompts": ELSEWHERE})
    moved = changed(record, at=stage.ledger.now(), spec=spec)
    stage.ledger.schedules.write(moved)
    monkeypatch.setattr(stage.worker.artifacts, "chunks_of", lambda url: pytest.fail(f"{url} was read"))
    fire(stage.worker, "nightly")
    assert outcomes(stage) == ["failed"]


@pytest.mark.parametrize(
    "named",
    [
        {"prompt_buckets": ("no-such-bucket-of-ours",)},
        {"tenants": {"default": TenantLimits(prompt_buckets=("no-such-bucket-of-ours",))}},
        {"schedules": {"nightly": {"cron": HOURLY, "prompts": ELSEWHERE}}},
    ],
    ids=["for all", "for its tenant", "of the settings"],
)
def test_prompts_in_a_bucket_that_the_settings_name_are_read(stage: Stage, named: dict[str, Any]) -> None:
    put_record(stage)
    fire(stage.new_worker("w2", **named), "nightly")
    assert f"{ELSEWHERE}: no such" in (history(stage)[0].reason or "")


def test_a_rows_key_that_is_another_objects_makes_the_record_unreadable_and_deletes_nothing(stage: Stage) -> None:
    record = schedule(stage, only_new=True)
    precious = BatchObjects("b").manifest
    for key in (precious, "schedules/other/rows/x.bin", "schedules/nightly/rows/../../x.bin", "/etc/passwd"):
        body = record.model_copy(update={"rows_key": key}).model_dump_json()
        with pytest.raises(RecordUnreadable, match="rows_key"):
            read_record(ScheduleRecord, body, what="schedule")
    firing = Firing(
        id=firing_id("nightly", record.cursor), fire_at=record.cursor, outcome="skipped", recorded_at=record.cursor
    )
    for key in (precious, "schedules/other/rows/x.bin"):
        with pytest.raises(RecordUnreadable, match="rows_key"):
            read_record(Firing, firing.model_copy(update={"rows_key": key}).model_dump_json(), what="firing")
    mine = firing.model_copy(update={"rows_key": ScheduleObjects("nightly").rows(firing.id, "0a")})
    assert read_record(Firing, mine.model_dump_json(), what="firing") == mine


def test_invalid_rows_may_be_skipped(stage: Stage) -> None:
    schedule(stage, prompts=put_prompts(stage, [ROWS[0], {"prompt": ""}]), skip_invalid=True)
    fire(stage.worker, "nightly")
    assert (history(stage)[0].outcome, history(stage)[0].rows) == ("submitted", 1)


def test_comments_and_extra_columns_are_read_as_the_schedule_says(stage: Stage) -> None:
    text = put_prompts(stage, ["# of the autumn", "a red leaf"], "set.txt")
    table = put_prompts(stage, ["prompt,Category", "a fox,Animals"], "set.csv")
    schedule(stage, "text", prompts=text, comments=True)
    schedule(stage, "table", prompts=table, extra_columns="metadata")
    for name in ("text", "table"):
        fire(stage.worker, name)
        assert (history(stage, name)[0].outcome, history(stage, name)[0].rows) == ("submitted", 1)
    [row] = rows_of(stage, history(stage, "table")[0].id).values()
    assert row["metadata"] == {"Category": "Animals"}
    assert not {"comments", "extra_columns"} & schedule(stage).spec.model_dump().keys()


def test_an_id_that_a_user_took_fails_that_firing_only(stage: Stage) -> None:
    schedule(stage)
    taken = firing_id("nightly", hours_ago(stage, 0))
    stage.accepted(1, taken)
    fire(stage.worker, "nightly")
    assert "is not of schedule 'nightly'" in (history(stage)[0].reason or "")
    assert again(stage).outcome == "submitted"


def test_only_new_renders_rows_that_are_others_than_at_the_firing_before(stage: Stage) -> None:
    schedule(stage, cron="0 0 1 1 *", only_new=True, overlap="allow")
    tower, hill, sea = ROWS
    first = again(stage)
    assert set(rows_of(stage, first.id)) == {"tower", "hill", "sea"}
    nothing = again(stage)
    assert (nothing.outcome, nothing.reason) == ("skipped", f"{url_of(stage)}: none of 3 rows is new")
    changed = {**hill, "prompt": "a higher hill"}
    put_prompts(stage, [sea, changed, {**tower, "custom_id": "tower-2"}, tower])  # their order is no change
    second = again(stage)
    assert (second.rows, second.unchanged) == (2, 2)
    assert {name: row["row"] for name, row in rows_of(stage, second.id).items()} == {"hill": 0, "tower-2": 1}
    put_prompts(stage, [hill, sea])
    assert set(rows_of(stage, again(stage).id)) == {"hill"}  # back to what it was before is another than last time
    put_prompts(stage, [hill, sea, tower])
    assert set(rows_of(stage, again(stage).id)) == {"tower"}  # it was away
    assert len(list(stage.artifacts.list(ScheduleObjects("nightly").root + "rows/"))) == 1


def test_only_new_counts_options_of_all_rows_and_not_their_place_in_a_batch(stage: Stage) -> None:
    schedule(stage, cron="0 0 1 1 *", only_new=True, overlap="allow")
    again(stage)
    spec = checked_spec({"cron": "0 0 1 1 *", "prompts": url_of(stage), "only_new": True, "options": {"steps": 9}})
    schedules.add(stage.ledger, stage.artifacts, "nightly", spec, update=True)
    complete(stage, history(stage)[0].id)
    assert again(stage).rows == 3


def test_run_now_with_everything_renders_rows_that_are_not_new_too(stage: Stage) -> None:
    schedule(stage, cron="0 0 1 1 *", only_new=True, overlap="allow")
    again(stage)
    schedules.run_now(stage.ledger, "nightly", everything=True)
    fire(stage.worker, "nightly")
    assert history(stage)[-1].rows == 3
    assert again(stage).outcome == "skipped"


def test_only_new_renders_again_what_was_cancelled_and_not_what_was_rendered(stage: Stage) -> None:
    schedule(stage, cron="0 0 1 1 *", only_new=True, overlap="replace")
    first = again(stage)
    expand(stage.worker, first.id)
    lease = stage.ledger.leases.claim("w1", 5)
    assert lease is not None
    stage.ledger.images.move_by_worker(
        first.id, lease.job.ref, [0], ImageState.SUCCEEDED, incarnation=lease.job.incarnation, fence=lease.fence
    )
    second = again(stage)
    assert second.replaced == (first.id,)
    assert set(rows_of(stage, second.id)) == {"hill", "sea"}
    request_cancel(stage.ledger, second.id)
    third = again(stage)
    assert set(rows_of(stage, third.id)) == {"hill", "sea"}


def test_run_now_fires_a_paused_schedule_and_leaves_its_times_alone(stage: Stage) -> None:
    schedule(stage, cron="0 0 1 1 *")
    schedules.pause(stage.ledger, stage.artifacts, "nightly")
    batch_id = schedules.run_now(stage.ledger, "nightly")
    assert stage.ledger.schedules.due() == ["nightly"]
    fire(stage.worker, "nightly")
    assert batches(stage) == [batch_id]
    assert history(stage)[0].by_hand
    assert stage.ledger.schedules.due() == []


def test_a_schedule_that_is_paused_while_it_fires_has_the_firing_in_its_history(stage: Stage) -> None:
    schedule(stage)
    real = stage.worker.artifacts.chunks_of

    def paused_meanwhile(url: str) -> Iterator[bytes]:
        schedules.pause(stage.ledger, stage.artifacts, "nightly")
        return real(url)

    stage.worker.artifacts.chunks_of = paused_meanwhile  # type: ignore[method-assign]
    fire(stage.worker, "nightly")
    assert outcomes(stage) == ["submitted"]
    record = stage.ledger.schedules.get("nightly")
    assert record is not None
    assert record.paused
    assert record.open == tuple(batches(stage))


def test_a_removed_schedule_leaves_its_batches_and_nothing_else(stage: Stage) -> None:
    schedule(stage, only_new=True)
    fire(stage.worker, "nightly")
    schedules.remove(stage.ledger, stage.artifacts, "nightly")
    fire(stage.worker, "nightly")
    assert stage.ledger.schedules.names() == []
    assert list(stage.artifacts.list("schedules/")) == []
    assert len(batches(stage)) == 1
    recover_schedules(stage.worker)
    assert stage.ledger.schedules.names() == []


def test_an_emptied_redis_gets_its_schedules_back_and_fires_nothing_twice(stage: Stage) -> None:
    schedule(stage, hours=1, catch_up=True, overlap="allow", only_new=True)
    fire(stage.worker, "nightly")
    schedules.pause(stage.ledger, stage.artifacts, "nightly")
    by_hand = schedules.run_now(stage.ledger, "nightly")
    schedules.resume(stage.ledger, stage.artifacts, "nightly")  # the copy in S3 says that this run is yet to come
    fire(stage.worker, "nightly")
    told, before = history(stage), stage.ledger.schedules.get("nightly")
    assert before is not None
    assert by_hand in [firing.id for firing in told]
    accepted = batches(stage)
    for key in stage.ledger.store.redis.scan_iter(f"{stage.settings.redis_prefix}:*"):
        stage.ledger.store.redis.delete(key)
    tick.tick(stage.worker)  # finds the ledger in doubt
    verify_ledger(stage.worker)
    tick.tick(stage.worker)
    found = stage.ledger.schedules.get("nightly")
    assert found is not None
    assert sorted(history(stage), key=lambda one: one.id) == sorted(told, key=lambda one: one.id)
    assert (found.spec, found.cursor, found.rows_key) == (before.spec, before.cursor, before.rows_key)
    assert set(found.open) <= set(accepted)
    assert found.runs == ()
    if found.next_at is not None and found.next_at > stage.ledger.now():
        fire(stage.worker, "nightly")
        assert batches(stage) == accepted


def test_a_schedule_in_the_bucket_that_cannot_be_read_does_not_hide_the_others(stage: Stage) -> None:
    schedule(stage, "z")
    for key in stage.ledger.store.redis.scan_iter(f"{stage.settings.redis_prefix}:*"):
        stage.ledger.store.redis.delete(key)
    stage.artifacts.put(ScheduleObjects("a").record, b"not json", content_type="application/json")
    recover_schedules(stage.worker)
    assert stage.ledger.schedules.names() == ["z"]


def test_adding_the_same_again_changes_nothing_and_another_needs_a_word(stage: Stage) -> None:
    record = schedule(stage)
    same, news = schedules.add(stage.ledger, stage.artifacts, "nightly", record.spec)
    assert (same, news) == (record, False)
    other = record.spec.model_copy(update={"cron": "0 2 * * *"})
    with pytest.raises(RequestError, match=r"exists with other values \(cron\); change it with --update"):
        schedules.add(stage.ledger, stage.artifacts, "nightly", other)
    after, news = schedules.add(stage.ledger, stage.artifacts, "nightly", other, update=True)
    assert (after.spec, news) == (other, True)
    fire(stage.worker, "nightly")
    assert outcomes(stage) == []  # what was due by the old expression is not made up for


def test_next_times_are_in_utc_whatever_the_zone(stage: Stage) -> None:
    record = schedule(stage, cron="0 2 * * *", tz="Europe/Berlin")
    assert record.next_at is not None
    assert record.next_at.tzinfo is UTC
    assert record.next_at.hour in (0, 1)


BAD_PROMPTS: dict[str, tuple[str, bytes | None]] = {
    "gone": ("gone.jsonl", None),
    "no UTF-8": ("bad.jsonl", b"\xff\xfe\n"),
    "broken JSON": ("bad.jsonl", b"{"),
    "a torn gzip": ("bad.jsonl.gz", gzip.compress(b'{"prompt": "x"}' * 100)[:20]),
    "no gzip": ("bad.jsonl.gz", b"plain"),
    "no zstd": ("bad.jsonl.zst", b"plain"),
    "a CSV whose columns changed": ("bad.csv", b"colour,size\nred,3\n"),
    "nothing": ("bad.jsonl", b""),
}


@pytest.mark.parametrize("what", BAD_PROMPTS)
def test_bad_input_fails_the_firing_of_its_schedule_and_no_other(stage: Stage, what: str) -> None:
    name, body = BAD_PROMPTS[what]
    if body is not None:
        stage.artifacts.put(name, body, content_type="text/plain")
    url = f"s3://{stage.settings.s3_bucket}/{stage.settings.s3_prefix}/{name}"
    schedule(stage, "bad", prompts=url)
    schedule(stage, "good")
    for one in ("bad", "good"):
        fire(stage.worker, one)
    (failed,) = history(stage, "bad")
    assert (failed.outcome.value, outcomes(stage, "good")) == ("failed", ["submitted"])
    assert failed.reason
    assert not failed.reason.startswith("our own program failed")
    record = stage.ledger.schedules.get("bad")
    assert record is not None
    assert record.cursor >= failed.fire_at  # the next firing is another one


def test_digests_that_are_gone_are_not_taken_for_none(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late bucket is waited for; then the firing fails and says how to begin anew, and renders nothing twice."""
    schedule(stage, only_new=True, overlap="allow")
    fire(stage.worker, "nightly")
    record = stage.ledger.schedules.get("nightly")
    assert record is not None
    assert record.rows_key is not None
    stage.artifacts.delete(record.rows_key)
    schedules.run_now(stage.ledger, "nightly")
    with pytest.raises(StoreUnavailable, match="not yet"):
        fire(stage.worker, "nightly")
    monkeypatch.setattr("tasks.control.new_rows.LATE_READS", timedelta(0))
    fire(stage.worker, "nightly")
    assert outcomes(stage) == ["submitted", "failed"]
    assert "run-now nightly --all" in (history(stage)[-1].reason or "")
    schedules.run_now(stage.ledger, "nightly", everything=True)
    fire(stage.worker, "nightly")
    assert outcomes(stage) == ["submitted", "failed", "submitted"]


def test_a_firing_in_the_bucket_that_cannot_be_read_costs_itself_only(stage: Stage) -> None:
    schedule(stage, hours=1, catch_up=True, overlap="allow")
    fire(stage.worker, "nightly")
    told = history(stage)
    for key in stage.ledger.store.redis.scan_iter(f"{stage.settings.redis_prefix}:*"):
        stage.ledger.store.redis.delete(key)
    stage.artifacts.put(ScheduleObjects("nightly").firing(told[0].id), b"{", content_type="application/json")
    tick.announce(stage.worker)
    recover_schedules(stage.worker)
    assert [firing.id for firing in history(stage)] == [firing.id for firing in told[1:]]
