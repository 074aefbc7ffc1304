"""The command line: exit codes, messages, JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.client.local_stack import running_stack
from tests.e2e.stack import TESSERA, User

ROW = {"prompt": "a hill", "width": 128, "height": 128, "steps": 2}


def _batches(studio: User) -> list[str]:
    return [json.loads(line)["id"] for line in studio.run("list", "--json").stdout.splitlines()]


def test_submit_watch_status_list_download(studio: User) -> None:
    manifest = studio.manifest("hills.jsonl", ROW, ROW | {"prompt": "two hills"})
    done = studio.run("submit", manifest, "--batch-id", "hills", "--watch")
    assert done.returncode == 0, done.stderr
    assert "hills completed 2/2 images" in done.stderr.splitlines()[-1]
    assert studio.json("status", "hills")["images"]["succeeded"] == 2
    assert "hills" in studio.run("list").stdout
    page = Path(studio.json("download", "hills", "--output", "out")["gallery"])
    assert (studio.folder / page).is_file()
    traced = studio.json("trace", "hills/0", "--out", "traces")
    assert [one["rank"] for one in traced["ranks"]] == [0, 1]
    assert all(one["seconds"]["denoise"] > 0 and one["sent_bytes"] > 0 and one["wall_s"] > 0 for one in traced["ranks"])
    assert all((studio.folder / file).stat().st_size > 1000 for file in traced["files"])
    assert studio.json("submit", manifest, "--batch-id", "hills")["created"] is False
    watched = studio.run("watch", "hills", "--json")
    assert json.loads(watched.stdout.splitlines()[-1])["state"] == "completed"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["frobnicate"], 2),
        (["submit"], 2),
        (["submit", "nothere.jsonl"], 2),
        (["submit", "prompts.csv"], 2),
        (["status", "never-submitted"], 2),
        (["status", "../../etc"], 2),
        (["--version"], 0),
    ],
)
def test_exit_codes_of_calls_that_ask_for_nothing(studio: User, arguments: list[str], code: int) -> None:
    done = studio.run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_an_invalid_manifest_shows_all_errors_and_submits_nothing(studio: User) -> None:
    before = _batches(studio)
    path = studio.manifest("bad.jsonl", ROW, ROW | {"width": 11}, ROW | {"stepz": 3}, {"steps": 2})
    path.write_text(path.read_text() + "{broken\n")
    done = studio.run("submit", path)
    assert done.returncode == 2
    for part in ("line 2: width", "line 3: stepz", "line 4: prompt", "line 5: broken JSON", "nothing was submitted"):
        assert part in done.stderr
    assert studio.run("validate", path).returncode == 2
    as_json = json.loads(studio.run("submit", path, "--json").stderr)
    assert {error["line"] for error in as_json["errors"]} == {2, 3, 4, 5}
    assert _batches(studio) == before


def test_skip_invalid_renders_the_rest_and_lists_what_was_left_out(studio: User) -> None:
    path = studio.manifest("mixed.jsonl", ROW, ROW | {"width": 11})
    done = studio.run("submit", path, "--skip-invalid", "--batch-id", "mixed", "-o", "mixed")
    assert done.returncode == 3, "partly failed"
    (line,) = (studio.folder / "mixed" / "errors.jsonl").read_text().splitlines()
    assert (json.loads(line)["code"], json.loads(line)["line"]) == ("E_INVALID", 2)


def test_none_succeeded(studio: User) -> None:
    path = studio.manifest("long.jsonl", ROW | {"prompt": "word " * 200})
    assert studio.run("submit", path, "--watch").returncode == 4


def test_timed_out(studio: User) -> None:
    path = studio.manifest("slow.jsonl", ROW | {"steps": 30})
    done = studio.run("submit", path, "--watch", "--timeout", "0.3", "--batch-id", "slow")
    assert done.returncode == 5
    assert "tessera watch slow" in done.stderr
    assert studio.run("watch", "slow").returncode == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TESSERA_REDIS_URL": "redis://:secret@127.0.0.1:9"}, "does not answer"),
        ({"TESSERA_REDIS_URL": "http://127.0.0.1:9"}, "TESSERA_REDIS_URL"),
        ({"TESSERA_REDIS_ULR": "redis://127.0.0.1:9"}, "did you mean TESSERA_REDIS_URL"),
        ({"TESSERA_REDIS_URL": ""}, ""),
    ],
)
def test_a_wrong_redis_is_named_and_no_password_is_shown(studio: User, settings: dict[str, str], said: str) -> None:
    path = studio.manifest("one.jsonl", ROW)
    done = studio.run("submit", path, environment={"TESSERA_S3_BUCKET": "tessera"} | settings)
    if said:
        assert done.returncode in (1, 2)
        assert said in done.stderr
    else:
        assert done.returncode == 0, "an empty variable is none, so the stack that is up is meant"
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"TESSERA_S3_ENDPOINT": "http://127.0.0.1:9"}, "check TESSERA_S3_ENDPOINT"),
        ({"TESSERA_S3_BUCKET": "no-such-bucket"}, "the bucket does not exist"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses our credentials"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "set AWS_ACCESS_KEY_ID"),
        ({"TESSERA_REDIS_PREFIX": "elsewhere"}, "no Tessera controller has announced itself"),
    ],
)
def test_a_service_that_cannot_be_used_is_named_and_nothing_is_accepted(
    studio: User, wrong: dict[str, str], said: str
) -> None:
    before = _batches(studio)
    state = running_stack(studio.data_dir)
    assert state is not None
    path = studio.manifest("one.jsonl", ROW)
    done = studio.run("submit", path, environment=dict(state.environment) | wrong)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert _batches(studio) == before


def test_without_any_deployment_the_way_on_is_shown(studio: User, tmp_path: Path) -> None:
    path = studio.manifest("one.jsonl", ROW)
    done = studio.run("submit", path, environment={"TESSERA_DATA_DIR": str(tmp_path)})
    assert done.returncode == 2
    assert "tessera up" in done.stderr
    assert studio.run("validate", path, environment={"TESSERA_DATA_DIR": str(tmp_path)}).returncode == 0


def test_pod_says_why_a_job_of_the_local_node_has_no_kubernetes_job(studio: User) -> None:
    path = studio.manifest("pod.jsonl", ROW)
    assert studio.run("submit", path, "--batch-id", "pod", "--watch").returncode == 0
    done = studio.run("pod", "pod/0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'local' found; a container image by digest wanted" in done.stderr
    assert "no job 'pod/7'" in studio.run("pod", "pod/7").stderr


def test_doctor_sees_the_stack_and_a_file_that_hides_a_package(studio: User) -> None:
    done = replace(studio, program=TESSERA).run("doctor", "--json")  # what Python finds first is asked
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1, "the user's own pipeline.py is a fault"
    assert found["import pipeline"]["verdict"] == "wrong"
    assert found["import distri"]["verdict"] == "wrong"
    for what in ("Redis", "Redis appendonly", "S3", "controller", "render workers"):
        assert found[what]["verdict"] == "ok", found[what]
