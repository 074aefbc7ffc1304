"""A batch is accepted whole or not at all, and accepting it again changes nothing."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.announcement import AnnouncedLimits
from pipeline.deployment.settings import Settings
from pipeline.errors import BatchExists, LedgerUnavailable, LimitReached, NoDeployment, PromptSetError, RequestError
from pipeline.ledger import Ledger
from pipeline.operations.submit import Acceptance, Submission, accept, checked_options
from pipeline.promptset.fields.row import ResolvedRow, derived_seed
from pipeline.promptset.formats.source import Prompts
from pipeline.records.batch import BatchManifest, advance
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState, ImageState
from tests.factories import at, deployment, prompts_file

ROWS: list[dict[str, Any]] = [
    {"prompt": "a", "negative_prompt": ""},
    {"prompt": "b", "negative_prompt": None, "num_images": 2},
    {"prompt": "c", "seed": 5, "custom_id": "../../c"},
]


class Desk:
    """Submits to one deployment."""

    def __init__(self, ledger: Ledger, artifacts: Artifacts) -> None:
        self.ledger, self.artifacts = ledger, artifacts

    def submit(self, prompts: Prompts = tuple(ROWS), batch_id: str | None = "b", **options: Any) -> Acceptance:
        defaults = checked_options(options.pop("defaults", {"negative_prompt": "blur"}))
        return accept(Submission(prompts, defaults, batch_id, **options), self.ledger, self.artifacts)

    def rows(self, batch_id: str = "b") -> list[ResolvedRow]:
        return [ResolvedRow.model_validate_json(line) for line in self.artifacts.lines(self.staged("input", batch_id))]

    def staged(self, kind: str, batch_id: str = "b") -> str:
        """The key of the rows that were accepted, or of those that were left out."""
        manifest = BatchManifest.model_validate_json(self.artifacts.get(BatchObjects(batch_id).manifest) or b"")
        return f"batches/{batch_id}/staged/{manifest.staged}/{kind}.jsonl"

    def keys(self) -> list[str]:
        return list(self.artifacts.list(""))

    def objects(self) -> dict[str, bytes | None]:
        return {key: self.artifacts.get(key) for key in self.artifacts.list("")}


@pytest.fixture
def desk(ledger: Ledger, artifacts: Artifacts) -> Desk:
    ledger.announce(deployment())
    return Desk(ledger, artifacts)


def test_an_accepted_batch_lies_in_the_bucket_and_stands_in_the_ledger(desk: Desk) -> None:
    accepted = desk.submit(tenant="acme", priority=2)
    assert (accepted.created, accepted.recorded) == (True, True)
    assert desk.keys() == ["batches/b/batch.json", desk.staged("input")]
    stored = BatchManifest.model_validate_json(desk.artifacts.get("batches/b/batch.json") or b"")
    assert stored == accepted.manifest == desk.ledger.batches.get("b").manifest
    assert (stored.rows, stored.images, stored.tenant, stored.priority) == (3, 4, "acme", 2)
    assert desk.ledger.batches.state("b") is BatchState.VALIDATING
    assert desk.ledger.batches.counts("b").images[ImageState.QUEUED] == 4


def test_rows_are_staged_with_everything_decided(desk: Desk) -> None:
    accepted = desk.submit()
    rows = desk.rows()
    assert [row.negative_prompt for row in rows] == ["", None, "blur"]
    assert [row.seed for row in rows] == [
        derived_seed(accepted.manifest.seed, "row-1"),
        derived_seed(accepted.manifest.seed, "row-2"),
        5,
    ]
    assert [(row.first_image, row.width) for row in rows] == [(0, 256), (1, 256), (3, 256)]


def test_the_same_submission_again_changes_nothing(desk: Desk) -> None:
    first = desk.submit()
    before = desk.objects()
    again = desk.submit()
    assert (again.created, again.manifest) == (False, first.manifest)
    assert desk.objects() == before
    assert desk.ledger.batches.get("b").revision == 1


@pytest.mark.parametrize("change", [{"prompts": ["other"]}, {"defaults": {"steps": 3}}, {"seed": 99}])
def test_the_same_id_with_other_rows_is_refused_and_the_first_stays(desk: Desk, change: dict[str, Any]) -> None:
    desk.submit()
    before = desk.objects()
    with pytest.raises(BatchExists, match=r"batch 'b' exists with other rows .3 rows, 4 images.*choose another id"):
        desk.submit(**change)
    assert desk.objects() == before


def test_two_that_submit_the_same_at_once_get_the_same_batch(desk: Desk) -> None:
    accepted: list[Acceptance] = []
    threads = [threading.Thread(target=lambda: accepted.append(desk.submit())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.manifest.incarnation for one in accepted}) == 1
    assert sorted(one.created for one in accepted) == [False, False, False, True]


def test_without_an_id_each_submission_is_a_batch_of_its_own(desk: Desk) -> None:
    ids = {desk.submit(batch_id=None).manifest.id for _ in range(3)}
    assert len(ids) == 3
    assert set(desk.ledger.batches.unfinished()) == ids


def test_a_submission_that_broke_off_after_batch_json_is_completed_by_repeating_it(
    desk: Desk, settings: Settings
) -> None:
    class Away(Ledger):
        """A ledger whose Redis goes away at the last moment."""

        def __init__(self) -> None:
            super().__init__(settings)
            away = Settings.model_validate(settings.model_dump() | {"redis_url": "redis://127.0.0.1:9"})
            self.batches = Ledger(away).batches

    broken = accept(Submission(ROWS, checked_options({"negative_prompt": "blur"}), "b"), Away(), desk.artifacts)
    assert (broken.created, broken.recorded) == (True, False)
    assert not desk.ledger.batches.known("b")
    again = desk.submit()
    assert (again.created, again.recorded) == (False, True)
    assert desk.ledger.batches.get("b").manifest.input_sha256 == broken.manifest.input_sha256


def test_a_ledger_that_lost_a_batch_gets_it_again_as_another_incarnation(desk: Desk) -> None:
    """What still runs under the names of the lost record must not be met again."""
    first = desk.submit()
    desk.ledger.store.redis.delete(desk.ledger.store.keys.batch("b"))
    desk.submit()
    assert desk.ledger.batches.get("b").manifest.incarnation != first.manifest.incarnation


def test_a_submission_that_broke_off_before_batch_json_leaves_nothing_of_itself_in_the_next(desk: Desk) -> None:
    objects = BatchObjects("b")
    desk.artifacts.put(objects.input("gone"), b"{}\n", content_type="application/x-ndjson")
    desk.artifacts.put(objects.invalid("gone"), b'{"line":1}\n', content_type="application/x-ndjson")
    assert desk.submit().created
    assert len(desk.rows()) == 3
    assert not desk.artifacts.get(desk.staged("invalid"))


def test_of_two_that_submit_other_rows_under_one_id_at_once_one_is_accepted_whole(desk: Desk) -> None:
    """The loser writes nothing that the winner's batch.json would name, and takes its own rows away."""
    ready = threading.Barrier(4)
    accepted: list[Acceptance] = []
    refused: list[BatchExists] = []

    def submit(number: int) -> None:
        ready.wait()
        try:
            accepted.append(desk.submit([{"prompt": f"of {number}"}] * 20, "same"))
        except BatchExists as error:
            refused.append(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(accepted), len(refused)) == (1, 3)
    key = desk.staged("input", "same")
    assert desk.keys() == ["batches/same/batch.json", key]
    body = desk.artifacts.get(key) or b""
    assert hashlib.sha256(body).hexdigest() == accepted[0].manifest.input_sha256
    assert len({row.prompt for row in desk.rows("same")}) == 1


@pytest.mark.parametrize("skip_invalid", [False, True])
def test_an_invalid_manifest_leaves_nothing_behind(desk: Desk, skip_invalid: bool) -> None:
    rows: list[dict[str, Any]] = [{"prompt": ""}] if skip_invalid else [{"prompt": "ok"}, {"prompt": "x", "width": 3}]
    with pytest.raises(PromptSetError):
        desk.submit(rows, skip_invalid=skip_invalid)
    assert desk.keys() == []
    assert desk.ledger.batches.unfinished() == []


def test_invalid_rows_are_left_out_and_listed_when_asked(desk: Desk, tmp_path: Path) -> None:
    path = prompts_file(
        tmp_path / "p.jsonl",
        [{"prompt": "a"}, {"prompt": "SECRET", "width": 63, "height": 65_000}, "{", {"prompt": "d"}],
    )
    accepted = desk.submit(path, skip_invalid=True)
    assert (accepted.manifest.rows, accepted.manifest.images, accepted.manifest.invalid_rows) == (2, 2, 2)
    assert [(row.row, row.custom_id) for row in desk.rows()] == [(0, "row-1"), (1, "row-4")]
    lines = [json.loads(line) for line in desk.artifacts.lines(desk.staged("invalid"))]
    assert [(line["line"], line["field"], line["code"], line["status"]) for line in lines] == [
        (2, "width", "E_INVALID", "invalid"),
        (2, "height", "E_INVALID", "invalid"),
        (3, None, "E_INVALID", "invalid"),
    ]
    assert "SECRET" not in json.dumps(lines)


@pytest.mark.parametrize(
    "batch_id", ["", "..", "../x", "a/b", "a b", ".hidden", "-x", "x" * 81, "a\n", "ä", "a\x00", "batch.json/../x"]
)
def test_an_id_that_could_not_be_part_of_a_path_is_refused(desk: Desk, batch_id: str) -> None:
    with pytest.raises(RequestError, match="1 to 80 letters, digits"):
        desk.submit(batch_id=batch_id)
    with pytest.raises(RequestError, match="1 to 80 letters, digits"):
        desk.submit(tenant=batch_id)
    assert desk.keys() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": 10}, "priority 10 found; 0 .first. to 9 .last. wanted"),
        ({"priority": -1}, "priority -1 found"),
        ({"seed": -1}, "seed -1 found"),
        ({"seed": 2**63}, "seed 9223372036854775808 found"),
        ({"defaults": {"width": 63, "hight": 3}}, "width: 63 found.*hight: unknown field"),
        ({"defaults": {"prompt": "x"}}, "prompt: unknown field"),
    ],
)
def test_options_out_of_range_are_refused(desk: Desk, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        desk.submit(**options)


def test_nothing_is_accepted_where_no_controller_ever_was(ledger: Ledger, artifacts: Artifacts) -> None:
    with pytest.raises(NoDeployment):
        Desk(ledger, artifacts).submit()
    assert list(artifacts.list("")) == []


def test_nothing_is_staged_when_redis_is_away(artifacts: Artifacts, settings: Settings) -> None:
    away = Settings.model_validate(settings.model_dump() | {"redis_url": "redis://127.0.0.1:9"})
    with pytest.raises(LedgerUnavailable):
        Desk(Ledger(away), artifacts).submit()
    assert list(artifacts.list("")) == []


def test_a_set_larger_than_what_stays_in_memory_is_staged_whole(desk: Desk) -> None:
    accepted = desk.submit([f"{number} " + "x" * 15_000 for number in range(600)])
    assert accepted.manifest.rows == 600
    assert [row.prompt.split()[0] for row in desk.rows()] == [str(number) for number in range(600)]


def _end(desk: Desk, batch_id: str, images: int) -> None:
    """So many images of a batch have an outcome."""
    incarnation = desk.ledger.batches.get(batch_id).manifest.incarnation
    moved = desk.ledger.images.move_by_worker(
        batch_id, f"{batch_id}/00000", range(images), ImageState.SUCCEEDED, incarnation=incarnation, fence=""
    )
    assert moved == images


def test_a_tenant_may_have_so_many_open_images_and_is_told_what_to_do(desk: Desk) -> None:
    limits = {"acme": AnnouncedLimits(open_images=10)}
    desk.ledger.announce(deployment(tenants=limits))
    desk.submit(["x"] * 6, "first", tenant="acme")
    with pytest.raises(
        LimitReached,
        match=r"tenant 'acme' has 6 images waiting or being rendered, in 1 batches, and this batch has 5; it may have "
        r"10 at a time \(TESSERA_TENANTS\). Nothing was accepted; wait until 1 of them are done, cancel a batch, or",
    ):
        desk.submit(["y"] * 5, "second", tenant="acme")
    with pytest.raises(LimitReached, match=r"this batch has 11.*submit it in parts of at most 10 images, or"):
        desk.submit(["y"] * 11, "second", tenant="acme")
    assert list(desk.artifacts.list("batches/second/")) == []
    assert desk.submit(["z"] * 50, "third", tenant="other").created
    assert desk.submit(["y"] * 4, "second", tenant="acme").created


def test_what_has_an_outcome_makes_room_and_a_batch_that_was_accepted_stays_so(desk: Desk) -> None:
    desk.ledger.announce(deployment(tenants={"*": AnnouncedLimits(open_images=6)}))
    desk.submit(["x"] * 6, "first")
    assert not desk.submit(["x"] * 6, "first").created  # its own images do not stand in its way
    with pytest.raises(LimitReached):
        desk.submit(["y"] * 2, "second")
    _end(desk, "first", 2)
    assert desk.submit(["y"] * 2, "second").created
    record = desk.ledger.batches.get("first")
    desk.ledger.batches.write(advance(record, BatchState.FAILED, at=at(9), reason="why"))
    assert desk.submit(["z"] * 4, "third").created


def test_a_limit_of_running_jobs_refuses_no_submission(desk: Desk) -> None:
    desk.ledger.announce(deployment(tenants={"*": AnnouncedLimits(running_jobs=1)}))
    assert desk.submit(["x"] * 50, "first").created
