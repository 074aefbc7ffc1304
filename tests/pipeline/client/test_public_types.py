"""The public surface, `from pipeline import ...`: complete, lazy, and typed as a user's type checker sees it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from PIL.Image import Image
from pydantic import BaseModel

import pipeline
from pipeline.client.connection import Connection
from pipeline.client.schedules import ScheduleFields

ROOT = Path(__file__).resolve().parents[3]

Check = Callable[[dict[str, str]], list[tuple[str, int, str, str]]]

# A line that is wrong says in a comment which of mypy's codes reports it.
USER = """
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import assert_type

from PIL.Image import Image

from pipeline import (
    Batch,
    BatchState,
    BatchStatus,
    Client,
    Estimate,
    FailureCode,
    Firing,
    ImageFailure,
    ImageResult,
    JobState,
    JobStatus,
    Likeness,
    Link,
    Overlap,
    PromptSetError,
    RenderedImage,
    Replay,
    Retried,
    Row,
    RowError,
    ScheduleStatus,
    TesseraError,
    Unreadable,
    WaitTimeout,
    Worker,
    connect,
)
from pipeline import Cleint  # attr-defined

client = Client()
Client(connect())
Client(7)  # arg-type

row = Row(prompt="a green hill", aspect="16:9", loras=["film:0.5"], original_size=[512, 512], seed=7)
assert_type(row, Row)
Row()  # call-arg
Row(prompt=7)  # arg-type
Row(prompt="a hill", stepz=20)  # call-arg
Row(prompt="a hill", format="tiff")  # arg-type

batch = client.submit(["a hill", {"prompt": "a hill"}, row], batch_id="hills", size="832x1216", scheduler="Euler a")
assert_type(batch, Batch)
client.submit("prompts.jsonl", stepz=20)  # call-arg
client.submit("prompts.jsonl", steps="20")  # arg-type
client.submit("prompts.jsonl", priority="high")  # arg-type
client.submit(7)  # arg-type

assert_type(client.estimate(Path("prompts.csv"), pods=4, megapixels=2.0).gpu_hours, float)
assert_type(client.estimate("prompts.csv"), Estimate)
client.estimate("prompts.csv", stepz=20)  # call-arg
client.estimate("prompts.csv", width="832")  # arg-type
client.estimate("prompts.csv", pods="4")  # arg-type

replay = client.replay("hill.png", timeout_s=60, progress=True)
assert_type(replay, Replay)
assert_type(replay.likeness, Likeness | None)
assert_type(client.batch("hills"), Batch)
assert_type(client.resume(), list[str])
assert_type(client.workers(), list[Worker])
assert_type(client.drain(None, hand_over=True), list[str])
client.drain()  # call-arg
assert_type(client.purgeable("hills"), BatchStatus | None)
assert_type(client.ended_before(timedelta(days=30)), Iterator[BatchStatus])
client.ended_before("30d")  # arg-type
assert_type(client.batches(limit=5), list[BatchStatus | Unreadable])

status = batch.wait(timeout_s=60, progress=True)
assert_type(status.state, BatchState)
assert_type(status.succeeded, int)
assert_type(status.jobs, dict[JobState, int])
assert_type(batch.updates(), Iterator[BatchStatus])
assert_type(batch.jobs(), list[JobStatus])
assert_type(batch.images(), Iterator[RenderedImage])
assert_type(batch.errors(), Iterator[ImageFailure])
assert_type(batch.download("renders", progress=True), Path)
assert_type(batch.links(timedelta(hours=2)), Iterator[Link])
assert_type(batch.contact_sheets("sheet.png", columns=8), list[Path])
assert_type(batch.retry("E_OOM"), Retried)
assert_type(batch.pause(), BatchState)
assert_type(batch.cancel(), BatchState)
batch.wait("60")  # arg-type
batch.retry(FailureCode.BLACK, 7)  # arg-type
batch.purge(True)  # call-arg
batch.links(3600)  # arg-type
batch.nothing()  # attr-defined
for image in batch.images():
    assert_type(image.result, ImageResult)
    assert_type(image.result.seed, int)
    assert_type(image.bytes(), bytes)
    assert_type(image.open(), Image)
    assert_type(image.save("renders"), Path)
for failure in batch.errors():
    assert_type(failure.code, FailureCode)

schedules = client.schedules
nightly = schedules.add("nightly", cron="0 2 * * *", prompts="s3://b/k.jsonl", overlap="replace", options={"steps": 2})
assert_type(nightly, ScheduleStatus)
schedules.add("nightly", cron="0 2 * * *", prompts="s3://bucket/key.jsonl", overlap=Overlap.ALLOW, update=True)
schedules.add("nightly", prompts="s3://bucket/key.jsonl")  # call-arg
schedules.add("nightly", cron="0 2 * * *", prompts="s3://bucket/key.jsonl", overlap="queue")  # arg-type
schedules.add("nightly", cron="0 2 * * *", prompts="s3://bucket/key.jsonl", onlynew=True)  # call-arg
schedules.add("nightly", cron="0 2 * * *", prompts="s3://bucket/key.jsonl", options={"stepz": 2})  # arg-type
assert_type(schedules.run_now("nightly", everything=True), str)
assert_type([seen.firing for seen in schedules.history("nightly")], list[Firing])

try:
    client.submit("prompts.jsonl")
except PromptSetError as error:
    assert_type(error.errors, tuple[RowError, ...])
except WaitTimeout as timeout:
    refused: TesseraError = timeout
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Check:
    """What `mypy --strict` says of a user's files, by name, far from our own configuration."""
    cache = request.config.cache
    assert cache is not None
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache.mkdir('user-mypy')}"]

    def check(files: dict[str, str]) -> list[tuple[str, int, str, str]]:
        """File, line, code and message of each error."""
        folder = tmp_path_factory.mktemp("user")
        for name, text in files.items():
            (folder / name).write_text(text)
        done = subprocess.run(
            [*command, "--output=json", *files], cwd=folder, capture_output=True, text=True, timeout=240, check=False
        )
        assert not done.stderr, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines() if line]
        return [(x["file"], x["line"], x["code"], x["message"]) for x in found if x["severity"] == "error"]

    return check


def test_a_type_checker_reports_the_wrong_calls_of_a_user_and_no_others(checked: Check) -> None:
    lines = USER.splitlines()
    wanted = {number: match[1] for number, line in enumerate(lines, 1) if (match := re.search(r"  # ([a-z-]+)$", line))}
    findings = checked({"user.py": USER})
    found = {number: code for _, number, code, _ in findings}
    assert found == wanted, [(lines[number - 1], code, message) for _, number, code, message in findings]


def test_the_examples_on_the_pages_pass_a_type_checker(checked: Check) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    examples = {
        f"{page.stem.lower().replace('-', '_')}_{number}.py": example
        for page in pages
        for number, example in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
        if "from pipeline import" in example
    }
    assert len(examples) >= 6
    assert checked(examples) == []


def test_a_star_import_brings_what_is_public_and_nothing_else() -> None:
    space: dict[str, Any] = {}
    exec("from pipeline import *", space)  # noqa: S102 - a module can, a function cannot
    assert space.keys() - {"__builtins__"} == set(pipeline.__all__)
    assert pipeline.__all__ == sorted(pipeline.__all__)
    assert set(pipeline.__all__) <= set(dir(pipeline))


def test_type_checkers_and_the_interpreter_find_each_name_in_the_same_module() -> None:
    source = ast.parse(Path(pipeline.__file__).read_text())
    (guarded,) = (n for n in source.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    imports = {n.module: tuple(alias.name for alias in n.names) for n in guarded.body if isinstance(n, ast.ImportFrom)}
    assert imports == pipeline._MODULES
    assert sorted(name for names in imports.values() for name in names) == pipeline.__all__
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        pipeline.Cleint  # type: ignore[attr-defined]  # noqa: B018


def test_who_imports_one_record_pays_for_no_client() -> None:
    probe = (
        "import sys, pipeline.states; print([n for n in sys.modules if n.split('.')[0] in ('celery', 'boto3', 'rich')])"
    )
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]"


def _annotations(public: Any) -> Iterator[Any]:
    """Everything that a class's public methods, properties and fields are annotated with."""
    if dataclasses.is_dataclass(public) or issubclass(public, BaseModel):
        yield from (hint for name, hint in get_type_hints(public).items() if not name.startswith("_"))
    for name, member in inspect.getmembers(public):
        function = member.fget if isinstance(member, property) else getattr(member, "func", member)
        ours = inspect.isfunction(function) and function.__module__.startswith("pipeline.")
        if ours and (name == "__init__" or not name.startswith("_")):
            yield from get_type_hints(function, localns={"Image": Image, "Connection": Connection}).values()


def _classes(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and annotation.__module__.startswith("pipeline."):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


@pytest.mark.parametrize(
    "name", ["Client", "Batch", "RenderedImage", "Replay", "Schedules", "ScheduleStatus", "BatchStatus", "Acceptance"]
)
def test_whatever_is_handed_out_has_a_public_name(name: str) -> None:
    found = {one.__name__ for hint in _annotations(getattr(pipeline, name)) for one in _classes(hint)}
    assert found - set(pipeline.__all__) == set()


def test_the_fields_of_a_schedule_are_its_keyword_arguments() -> None:
    assert get_type_hints(ScheduleFields).keys() == pipeline.ScheduleSpec.model_fields.keys()
