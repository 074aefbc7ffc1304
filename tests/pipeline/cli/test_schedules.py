"""`tessera schedule`: what it writes for people and for scripts, and how it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import Client
from pipeline.bucket.artifacts import Artifacts
from pipeline.cli.main import _run
from pipeline.deployment.settings import Settings
from pipeline.errors import RequestError
from pipeline.ledger import Ledger
from pipeline.operations.schedules import add
from pipeline.records.schedules.schedule import ScheduleRecord, checked_spec
from pipeline.records.schedules.schedule_keys import ScheduleObjects
from pipeline.schema import read_record

CRON = ("--cron", "0 2 * * *", "--tz", "Europe/Berlin")
NIGHTLY = ("nightly", *CRON, "--prompts", "s3://prompts/nightly.jsonl", "--missing-ok")

Tessera = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tessera(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tessera:
    """Run `tessera schedule ARGUMENTS`; returns exit code, standard output and standard error."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = _run(["schedule", *arguments])
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


def last_json(answer: tuple[int, str, str]) -> Any:
    assert answer[0] == 0, answer[2]
    return json.loads(answer[1].splitlines()[-1])


def test_add_list_show_pause_resume_run_history_remove(tessera: Tessera) -> None:
    code, said, _ = tessera("add", *NIGHTLY, "--set", "steps=20", "--set", "negative_prompt=people", "--catch-up")
    assert code == 0
    assert said.startswith("nightly fires next at 20")
    assert "02:00 CE" in said
    assert "(Europe/Berlin), 20" in said
    seen = last_json(tessera("show", "nightly", "--json"))
    assert seen["options"] == {"steps": 20, "negative_prompt": "people"}
    assert (seen["catch_up"], seen["only_new"], seen["overlap"], seen["declared"]) == (True, False, "forbid", False)
    assert seen["next_local"][11:16] == "02:00"
    assert seen["running"] == []
    assert seen["next_utc"][11:16] in ("00:00", "01:00")
    code, table, _ = tessera("list")
    assert code == 0
    assert "nightly" in table
    assert last_json(tessera("list", "--json")) == seen
    assert tessera("pause", "nightly")[1] == "nightly is paused\n"
    assert last_json(tessera("show", "nightly", "--json"))["next_utc"] is None
    assert last_json(tessera("resume", "nightly", "--json")) == seen
    batch = last_json(tessera("run-now", "nightly", "--json"))["batch"]
    assert batch.startswith("nightly-20")
    assert tessera("history", "nightly") == (0, "", "")  # no controller runs here
    assert tessera("show", "nightly")[1].splitlines()[-1].split() == ["last:", "never"]
    assert tessera("remove", "nightly")[1] == "nightly is removed\n"
    assert tessera("list", "--json") == (0, "", "")


def test_adding_again_needs_update_unless_it_is_the_same(tessera: Tessera) -> None:
    assert tessera("add", *NIGHTLY, "--paused")[1] == "nightly is paused\n"
    assert tessera("add", *NIGHTLY)[0] == 0
    code, _, said = tessera("add", *NIGHTLY, "--overlap", "allow")
    assert code == 2
    assert "exists with other values (overlap); change it with --update" in said
    assert tessera("add", *NIGHTLY, "--overlap", "allow", "--update")[0] == 0
    assert last_json(tessera("show", "nightly", "--json"))["overlap"] == "allow"
    assert tessera("resume", "nightly")[0] == 0
    assert tessera("add", *NIGHTLY, "--overlap", "allow", "--update", "--paused")[1] == "nightly is paused\n"
    assert tessera("add", *NIGHTLY, "--update")[1] == "nightly is paused\n"


def test_a_text_is_a_text_also_if_it_looks_like_a_number(tessera: Tessera) -> None:
    said = ["--set", "negative_prompt=123", "--set", 'prompt_2="a b"', "--set", "negative_prompt_2=null"]
    assert tessera("add", *NIGHTLY, *said)[0] == 0
    options = last_json(tessera("show", "nightly", "--json"))["options"]
    assert (options["negative_prompt"], options["prompt_2"]) == ("123", "a b")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["add", "nightly", "--cron", "0 25 * * *", "--prompts", "s3://b/k.jsonl", "--missing-ok"],
            "cron: '0 25 * * *': bad hour",
        ),
        (["add", *NIGHTLY[:-2], "k.jsonl"], "s3://bucket/key wanted: the controller reads it"),
        (["add", *NIGHTLY, "--tz", "Berlin"], "did you mean Europe/Berlin"),
        (["add", *NIGHTLY, "--set", "steps"], "OPTION=VALUE wanted, as in --set steps=20"),
        (["add", *NIGHTLY, "--set", "steps=20", "--set", "steps=30"], "--set steps is there twice"),
        (["add", *NIGHTLY, "--set", "steps=" + 5000 * "9"], "options.steps: Input should be a valid integer"),
        (["add", *NIGHTLY, "--set", "loras=" + 9_000 * "["], "which begins like JSON and is none"),
        (["add", *NIGHTLY, "--set", "loras=" + 100_000 * "["], "100,000 characters found; at most 10,000 wanted"),
        (["add", *NIGHTLY, "--set", "stepz=20"], "options.stepz: unknown field; did you mean steps?"),
        (["add", *NIGHTLY, "--overlap", "queue"], "overlap"),
        (["add", *NIGHTLY, "--vary-seed", "--only-new"], "vary_seed and only_new found"),
        (["add", "a/b", *NIGHTLY[1:]], "schedule name 'a/b'"),
        (["show", "nobody"], "no schedule 'nobody': `tessera schedule list`"),
        (["pause", "nobody"], "no schedule 'nobody'"),
        (["resume", "nobody"], "no schedule 'nobody'"),
        (["run-now", "nobody"], "no schedule 'nobody'"),
        (["history", "nobody"], "no schedule 'nobody'"),
        (["remove", "nobody"], "no schedule 'nobody'"),
        (["show", "../etc"], "schedule name '../etc'"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tessera: Tessera, arguments: list[str], said: str) -> None:
    code, _, complaint = tessera(*arguments)
    assert code == 2
    assert said in complaint
    assert tessera("list", "--json") == (0, "", "")


def test_prompts_are_put_where_a_schedule_reads_them_and_must_be_there(
    tessera: Tessera, artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{artifacts.root}prompts/nightly.jsonl"
    code, _, complaint = tessera("add", "nightly", *CRON, "--prompts", url)
    assert code == 2
    assert f"{url}: no such object" in complaint
    assert f"put it there with `tessera put FILE {url}`" in complaint
    path = tmp_path / "nightly.jsonl"
    path.write_text('{"prompt": "a fox"}\n')
    assert _run(["put", str(path)]) == 0
    assert capsys.readouterr().out.strip() == url
    assert artifacts.get("prompts/nightly.jsonl") == path.read_bytes()
    assert tessera("add", "nightly", *CRON, "--prompts", url)[0] == 0
    for wrong, words in {
        f"{artifacts.root}batches/b/batch.jsonl": "Tessera keeps its own records there",
        "prompts/nightly.jsonl": "s3://BUCKET/KEY wanted",
        f"{artifacts.root}prompts/nightly.pdf": "nightly.pdf",
    }.items():
        assert _run(["put", str(path), wrong]) == 2
        assert words in capsys.readouterr().err
    assert _run(["put", str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'} cannot be read: No such file" in capsys.readouterr().err


def test_a_schedule_of_the_settings_is_marked(tessera: Tessera, ledger: Ledger, artifacts: Artifacts) -> None:
    spec = checked_spec({"cron": "0 2 * * *", "prompts": "s3://prompts/nightly.jsonl"})
    add(ledger, artifacts, "nightly", spec, declared=True)
    assert "(settings)" in tessera("list")[1]
    code, _, said = tessera("remove", "nightly")
    assert code == 2
    assert "TESSERA_SCHEDULES" in said
    assert tessera("pause", "nightly")[0] == 0


def test_the_python_client_has_the_same(tessera: Tessera) -> None:
    schedules = Client().schedules
    seen = schedules.add(
        "nightly", cron="0 2 * * *", tz="Europe/Berlin", prompts="s3://prompts/n.jsonl", options={}, missing_ok=True
    )
    assert seen.next_local is not None
    assert (seen.next_local.hour, seen.last) == (2, None)
    assert [one.as_dict()["name"] for one in schedules.list()] == ["nightly"]
    assert schedules.pause("nightly").record.next_at is None
    assert schedules.resume("nightly").record.next_at == seen.record.next_at
    assert schedules.run_now("nightly").startswith("nightly-")
    assert schedules.history("nightly") == []
    schedules.remove("nightly")
    assert schedules.list() == []


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("{", "broken JSON"),
        (b"\xff", "no UTF-8"),
        ('{"schema_version": 1}', "another kind"),
        ("[1]", "list"),
        ("", "nothing"),
    ],
)
def test_an_unreadable_record_is_a_row_and_can_be_removed(
    tessera: Tessera, ledger: Ledger, record: str | bytes, words: str
) -> None:
    assert tessera("add", *NIGHTLY)[0] == 0
    assert tessera("add", "other", *NIGHTLY[1:])[0] == 0
    ledger.store.redis.hset(ledger.store.keys.schedule("other"), "record", record)
    code, table, reasons = tessera("list")
    assert code == 0
    assert table.splitlines()[1].startswith("nightly")
    assert table.splitlines()[-1].split() == ["other", "unreadable"]
    assert words in reasons
    assert last_json(tessera("list", "--json"))["state"] == "unreadable"
    assert tessera("remove", "other")[0] == 0
    assert ledger.schedules.names() == ["nightly"]
    assert tessera("remove", "other")[0] == 2


def test_an_unreadable_firing_is_left_out(tessera: Tessera, ledger: Ledger) -> None:
    assert tessera("add", *NIGHTLY)[0] == 0
    ledger.store.redis.lpush(ledger.store.keys.firings("nightly"), "{")
    assert tessera("list")[0] == 0
    assert tessera("history", "nightly", "--json")[0] == 0


def test_what_only_the_bucket_has_can_be_removed(tessera: Tessera, artifacts: Artifacts) -> None:
    artifacts.put(ScheduleObjects("left").record, b"{", content_type="application/json")
    assert tessera("remove", "left")[0] == 0
    assert list(artifacts.list(ScheduleObjects("left").root)) == []


def test_the_bucket_keeps_the_schedule_that_was_added_first(
    settings: Settings, ledger: Ledger, artifacts: Artifacts
) -> None:
    """Two add one name at the same moment: the copy in the bucket is of the one that the ledger has."""
    specs = [checked_spec({"cron": f"{n} 2 * * *", "prompts": "s3://prompts/nightly.jsonl"}) for n in (1, 2)]
    put, first = artifacts.put, True

    def interrupted(*args: Any, **kwargs: Any) -> None:
        nonlocal first
        put(*args, **kwargs)
        if first:  # between our two writes, another client does both of its own
            first = False
            add(ledger, Artifacts(settings), "nightly", specs[0])

    artifacts.put = interrupted  # type: ignore[method-assign]
    with pytest.raises(RequestError, match="exists with other values"):
        add(ledger, artifacts, "nightly", specs[1])
    body = artifacts.get(ScheduleObjects("nightly").record)
    assert body is not None
    assert read_record(ScheduleRecord, body, what="copy").spec == specs[0]
