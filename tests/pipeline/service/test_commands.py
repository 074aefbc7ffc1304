"""Every command, beside Redis and S3 and by address: the same outputs and exit codes, or it says what it needs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from pipeline.bucket import artifacts
from pipeline.bucket.s3 import connect
from pipeline.cli.commands_by_name import COMMANDS
from pipeline.cli.exits import USAGE
from pipeline.cli.main import main
from pipeline.records.tokens import EVERY_TENANT, Scope
from tests.pipeline.service.served import Served

# {it} is near or far; each line is one call, in this order, and both have done the lines before.
SAME = """
submit p.txt --batch-id {it} --tenant one --size 64x128 --steps 4 --label project={it} --priority 7
submit p.txt --batch-id {it} --tenant one --size 64x128 --steps 4 --label project={it} --priority 7
submit p.txt --batch-id {it} --tenant one --size 64x64
submit p.txt --tenant ../x --size 64x64
submit bad.jsonl
submit bad.jsonl --json
submit none.jsonl
submit p.txt --override steps=-1
validate p.txt --size 64x128
validate p.txt --size 7x7 --json
validate bad.jsonl --json
validate bad.jsonl --skip-invalid --size 64x64
estimate p.txt --size 64x128 --json
estimate bad.jsonl
submit pictures/p.csv --batch-id {it}-pictures --tenant one --steps 4 --json
submit pictures/p.csv --batch-id {it}-pictures --tenant one --steps 4 --json
submit pictures/p.csv --batch-id {it}-pictures --tenant one --steps 4 --image red.png
submit pictures/bad.jsonl --tenant one
submit pictures/bad.jsonl --batch-id {it}-left --tenant one --skip-invalid --image p.txt
submit p.txt --batch-id {it}-begun --tenant one --image pictures/red.png --strength 0.5 --json
submit p.txt --tenant one --image pictures
validate pictures/p.csv
validate pictures/bad.jsonl --json
estimate pictures/p.csv --json
estimate pictures/bad.jsonl
pause {it}
status {it}
priority {it} 3
priority {it} 11
status {it} --json
unpause {it} --json
retry {it}
purge {it} --yes
cancel {it}
status never
status never --json
list --label project={it} --tenant one --json
list --state born
watch done
watch done --json
download done -o {it}-files
download never -o {it}-files
contact-sheet done -o {it}.png
extract {it}-files/images/00000/0000000-000.png
retry done
retry done --code E_OOM
priority done 2
cancel done
purge done --dry-run
purge --older-than 1s --state failed --dry-run
webhook add https://hooks.example/x --tenant one --webhook-event failed
webhook add https://10.0.0.1/x --tenant one
webhook add https://hooks.example/y --batch done
webhook list --tenant one
webhook deliveries --batch done --json
webhook resend msg_0
webhook remove wh-0
webhook secret --tenant one
schedule add {it} --cron "0 3 * * *" --prompts {prompts} --tenant one
schedule add bad --cron "0 3 * *" --prompts {prompts}
schedule show {it}
schedule pause {it}
schedule resume {it}
schedule history {it}
schedule remove {it}
schedule list --json
schedule show never
workers
workers --json
trace done/0
trace done/7
trace never/0
render a-fox -o {it}-fox.png --size 64x128 --steps 4
replay {it}-files/images/00000/0000000-000.png -o {it}-replayed
"""

# What opens more than a token does, or concerns this machine alone.
WITH_CREDENTIALS = {
    "put": ["put", "p.txt", "s3://bucket/p.txt"],
    "resume": ["resume"],
    "verify": ["verify", "done"],
    "links": ["links", "done"],
    "drain": ["drain", "w"],
    "undrain": ["undrain", "w"],
    "token": ["token", "list"],
    "serve": ["serve"],
    "pod": ["pod", "done/0"],
}
OF_THIS_MACHINE = {"up", "down", "demo", "acl", "lora", "model", "doctor"}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def user(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    (tmp_path / "p.txt").write_text("a hill\na fox\n")
    rows = [{"prompt": "a"}, {"prompt": "b", "steps": -1}, {"prompt": "c", "colour": "red"}]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (64, 128), (255, 0, 0)).save(tmp_path / "pictures/red.png")
    (tmp_path / "pictures/p.csv").write_text("prompt,init_image\na,red.png\nb,pictures/red.png\nc,\n")
    rows = [{"prompt": "a", "image": f"{name}.png"} for name in ("red", "none", "../pictures")]
    rows += [{"prompt": "a", "image": "red.png", "mask": "../p.txt"}, {"prompt": "b", "steps": -1}]
    (tmp_path / "pictures/bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    # Each command near by makes the clients of the store anew, which takes longer than all else that it does.
    clients = connect(served.connection.settings, None)
    monkeypatch.setattr(artifacts, "connect", lambda *_: clients)
    return User(served, monkeypatch)


@dataclass(frozen=True)
class User:
    served: Served
    env: pytest.MonkeyPatch

    def says(self, it: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
        """What a command says near or far, without what differs from one call to the next."""
        far = {"TESSERA_URL": self.served.url, "TESSERA_TOKEN": self.served.new_token(EVERY_TENANT, Scope.ADMIN)}
        with self.env.context() as patch:
            for name, value in (far if it == "far" else self.served.connection.settings.environment()).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        found = capsys.readouterr()
        said = "".join(line for line in found.err.splitlines(keepends=True) if '"logger":' not in line)
        return Said(int(ended.value.code or 0), _settled(found.out, it), _settled(said, it))


# Ids that are made, moments, how long something took.
_FLEETING = re.compile(
    r"wh-[0-9a-f]{8}|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(\+00:00)?"
    r"|\b\d+(\.\d+)? (s|min|ms)\b|\d+\.\d+|[0-9a-f]{8,}"
)


def _settled(text: str, it: str) -> str:
    return _FLEETING.sub("~", re.sub(rf"\b{it}\b", "it", text))


def test_every_command_says_the_same_by_address(served: Served, user: User, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = f"{served.stage.artifacts.root}prompts/one/p.jsonl"
    served.stage.artifacts.put("prompts/one/p.jsonl", b'{"prompt": "x"}\n', content_type="text/plain")
    served.ask("POST", "/api/batches", {"prompts": ["p", "q"], "options": {"size": "64x128"}, "batch_id": "done"})
    served.ended("done")
    capsys.readouterr()  # what the stage logged
    different = []
    lines = [line for line in SAME.splitlines() if line]
    for line in lines:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line.replace("{prompts}", prompts))]
        near, far = (_while_held(served, user, capsys, words, it) for it in ("near", "far"))
        if words[0] in _WORKING:  # how far they are when is another matter
            near, far = replace(near, err=""), replace(far, err="")
        if near != far:
            different.append(f"{line}\n  near {near}\n  far  {far}")
    assert not different, "\n".join(different)
    assert {line.split()[0] for line in lines} | WITH_CREDENTIALS.keys() | OF_THIS_MACHINE == COMMANDS.keys()


_WORKING = ("render", "replay")


def _while_held(served: Served, user: User, capsys: pytest.CaptureFixture[str], words: list[str], it: str) -> Said:
    arguments = [word.replace("{it}", it) for word in words]
    if words[0] in _WORKING:
        return user.says(it, capsys, *arguments)
    with served.held():
        return user.says(it, capsys, *arguments)


@pytest.mark.parametrize("name", sorted(WITH_CREDENTIALS))
def test_what_a_token_does_not_open_says_what_it_needs(
    user: User, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = user.says("far", capsys, *WITH_CREDENTIALS[name])
    assert said.code == USAGE
    assert re.search(r"TESSERA_REDIS_URL|credentials|unset it", said.err), said.err


def test_a_trace_of_what_is_not_there_says_what_is_not(
    served: Served, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    served.ask("POST", "/api/batches", {"prompts": ["p"], "options": {"size": "64x128"}, "batch_id": "done"})
    served.ended("done")
    for job, words in (("never/0", "no batch 'never'"), ("done/7", "job 7 of batch 'done' found; it has 1, counted")):
        said = user.says("near", capsys, "trace", job)
        assert (said.code, words in said.err) == (USAGE, True), said.err
