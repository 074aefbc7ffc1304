"""Schedules of the settings: the settings decide about them, people may pause and run them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings, load_settings
from pipeline.errors import RequestError, SettingsError
from pipeline.ledger import Ledger
from pipeline.operations import schedules
from pipeline.operations.declared import declare, declared_schedules
from pipeline.records.schedules.schedule import ScheduleSpec, checked_spec

NIGHTLY = {"cron": "0 2 * * *", "tz": "Europe/Berlin", "prompts": "s3://prompts/nightly.jsonl"}
WEEKLY = {"cron": "0 3 * * MON", "prompts": "s3://prompts/weekly.jsonl"}


def specs(settings: Settings, schedules: Any) -> dict[str, ScheduleSpec]:
    """As a controller reads them from its environment."""
    return declared_schedules(load_settings(settings.environment() | {"TESSERA_SCHEDULES": json.dumps(schedules)}))


def declared(ledger: Ledger) -> dict[str, tuple[str, bool]]:
    """Expression of each declared schedule, and whether it is paused."""
    records = [ledger.schedules.get(name) for name in ledger.schedules.names()]
    return {one.name: (one.spec.cron, one.paused) for one in records if one is not None and one.declared}


def test_the_settings_add_change_and_remove(settings: Settings, ledger: Ledger, artifacts: Artifacts) -> None:
    declare(ledger, artifacts, specs(settings, {"nightly": NIGHTLY, "weekly": WEEKLY}))
    assert declared(ledger) == {"nightly": ("0 2 * * *", False), "weekly": ("0 3 * * MON", False)}
    schedules.add(ledger, artifacts, "mine", checked_spec(WEEKLY))
    schedules.pause(ledger, artifacts, "nightly")
    declare(ledger, artifacts, specs(settings, {"nightly": {**NIGHTLY, "cron": "0 4 * * *"}}))
    assert declared(ledger) == {"nightly": ("0 4 * * *", True)}
    assert ledger.schedules.names() == ["mine", "nightly"]
    declare(ledger, artifacts, specs(settings, {}))
    assert ledger.schedules.names() == ["mine"]
    assert list(artifacts.list("schedules/")) == ["schedules/mine/schedule.json"]


def test_the_same_settings_again_change_nothing(settings: Settings, ledger: Ledger, artifacts: Artifacts) -> None:
    declare(ledger, artifacts, specs(settings, {"nightly": NIGHTLY}))
    before = ledger.schedules.get("nightly")
    declare(ledger, artifacts, specs(settings, {"nightly": NIGHTLY}))
    assert ledger.schedules.get("nightly") == before


def test_only_the_settings_change_and_remove_what_they_say(
    settings: Settings, ledger: Ledger, artifacts: Artifacts
) -> None:
    declare(ledger, artifacts, specs(settings, {"nightly": NIGHTLY}))
    for refused in (
        lambda: schedules.remove(ledger, artifacts, "nightly"),
        lambda: schedules.add(ledger, artifacts, "nightly", checked_spec(WEEKLY), update=True),
    ):
        with pytest.raises(RequestError, match="one of the deployment's settings"):
            refused()
    assert schedules.pause(ledger, artifacts, "nightly").paused
    assert not schedules.resume(ledger, artifacts, "nightly").paused
    assert schedules.run_now(ledger, "nightly").startswith("nightly-")


def test_a_name_that_somebody_took_stays_theirs(settings: Settings, ledger: Ledger, artifacts: Artifacts) -> None:
    schedules.add(ledger, artifacts, "nightly", checked_spec(WEEKLY))
    declare(ledger, artifacts, specs(settings, {"nightly": NIGHTLY, "weekly": WEEKLY}))
    assert declared(ledger) == {"weekly": ("0 3 * * MON", False)}
    mine = ledger.schedules.get("nightly")
    assert mine is not None
    assert mine.spec.cron == "0 3 * * MON"


def test_every_schedule_that_cannot_be_used_is_named(settings: Settings) -> None:
    wrong = {"a": {**NIGHTLY, "tz": "Berlin"}, "b c": WEEKLY, "d": {"cron": "0 2 * * *"}, "e": "nightly", "f": WEEKLY}
    with pytest.raises(SettingsError) as caught:
        specs(settings, wrong)
    said = str(caught.value).splitlines()[1:]
    assert [line.split(":")[1].strip() for line in said] == ["a", "b c", "d", "e"]
    assert "did you mean Europe/Berlin" in said[0]
    assert "prompts: missing" in said[2]
    assert "an object with cron and prompts wanted" in said[3]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cron": "0 2 * *"}, "cron: '0 2 * *' has 4 fields; five wanted"),
        ({"tz": "Europe/Berlni"}, "tz: 'Europe/Berlni' found; an IANA time zone wanted; did you mean Europe/Berlin"),
        ({"prompts": "prompts.jsonl"}, "prompts: 'prompts.jsonl' found; s3://bucket/key wanted"),
        ({"prompts": "s3://bucket"}, "prompts: 's3://bucket' found"),
        ({"options": {"stepz": 3}}, "options.stepz: unknown field; did you mean steps?"),
        ({"options": {"steps": "x"}}, "options.steps: Input should be a valid integer"),
        ({"overlap": "queue"}, "overlap: Input should be 'forbid', 'allow' or 'replace'"),
        ({"tenant": "a/b"}, "tenant: "),
        ({"priority": 10}, "priority: "),
        ({"vary_seed": True, "only_new": True}, "vary_seed and only_new found"),
        ({"vary_seed": True, "options": {"seed": 4}}, "vary_seed and options.seed found"),
        ({"catchup": True}, "catchup: no such field; known are cron"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_was_wanted(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        checked_spec(NIGHTLY | values)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "x" * 51, "ä"])
def test_a_name_that_could_be_no_batch_id_is_refused(name: str, ledger: Ledger, artifacts: Artifacts) -> None:
    with pytest.raises(RequestError, match="1 to 50 letters"):
        schedules.add(ledger, artifacts, name, checked_spec(NIGHTLY))


def test_options_keep_what_was_said_and_nothing_else(ledger: Ledger, artifacts: Artifacts) -> None:
    """An option that nobody set must not win over the deployment's default when the record is read back."""
    schedules.add(
        ledger, artifacts, "nightly", checked_spec(NIGHTLY | {"options": {"negative_prompt": None, "steps": 20}})
    )
    record = ledger.schedules.get("nightly")
    assert record is not None
    assert record.spec.options.model_dump(exclude_unset=True) == {"negative_prompt": None, "steps": 20}
