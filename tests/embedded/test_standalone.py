"""What renders a picture without a stack, with ranks that only pretend to."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.stack_settings import standalone_settings
from embedded.standalone import Standalone
from pipeline.client.render_here import _asked
from pipeline.deployment.announcement import Deployment
from pipeline.process.private import private_folder
from pipeline.records.attempt import Code
from pipeline.records.standalone import Asked, PictureFolder, StandaloneFolder

# What an attempt does is the row's prompt.
_RANK = """
import json, os, sys, time
from pathlib import Path
from distri.run.next_attempt import NextAttempt
waiting = NextAttempt.of(os.environ, 0)
while True:
    does = json.loads(Path("shard.jsonl").read_text())["row"]["prompt"]
    spec = json.loads(os.environ["TESSERA_ATTEMPT"])
    Path("../../seen.jsonl").open("a").write(json.dumps({"does": does, "pid": os.getpid(), "spec": spec}) + "\\n")
    while does == "goes on":
        time.sleep(0.02)
    code = "SUCCEEDED"
    if does == "is too large" and not spec["lean"]:
        code = "OUT_OF_MEMORY"
    if does == "is wrong":
        code = "CONFIG_ERROR"
    report = {"schema_version": 1, "code": code, "message": does}
    Path(os.environ["TESSERA_TERMINATION_LOG"]).write_text(json.dumps(report))
    if code != "SUCCEEDED" or waiting is None:
        sys.exit(int(code != "SUCCEEDED"))
    if not waiting.wait(0, model="demo", memory_bytes=7, give_up=lambda: False):
        sys.exit(143)
"""


class Bench:
    """A data folder, and who serves it."""

    def __init__(self, data_dir: Path, patience: Any) -> None:
        self.data_dir, self.patience = data_dir, patience
        private_folder(StandaloneFolder.of(data_dir).pictures)
        private_folder(data_dir / "logs")
        self.settings = standalone_settings(data_dir, {"TESSERA_GPUS": "1", "TESSERA_DEVICE": "cpu"})
        self.deployment = Deployment.of(self.settings, "1")
        rank = [sys.executable, "-P", "-c", _RANK]
        self.serves = Standalone(data_dir, self.settings, "mine", rank=rank)

    def asked(self, does: str, settings: str = "mine") -> Any:
        return _asked(self.data_dir, Asked(settings=settings), does, {}, self.deployment)

    def until(self, true: Any, what: str) -> Any:
        def look() -> Any:
            self.serves._tend()
            return true()

        return self.patience.until(look, 60, what)

    def ended(self, folder: PictureFolder) -> tuple[Code, str]:
        ended = self.until(lambda: folder.ended, "the end of the picture")
        return ended.code, ended.reason

    def rendered(self, does: str) -> tuple[Code, str]:
        with self.asked(does) as folder:
            return self.ended(folder)

    @property
    def seen(self) -> list[dict[str, Any]]:
        path = StandaloneFolder.of(self.data_dir).path / "seen.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path, patience: Any) -> Iterator[Bench]:
    bench = Bench(tmp_path, patience)
    yield bench
    bench.serves._end()


def test_pictures_follow_each_other_in_one_process_and_a_failure_costs_it(bench: Bench, is_alive: Any) -> None:
    assert bench.rendered("a hill") == (Code.SUCCEEDED, "a hill")
    assert bench.rendered("a tower") == (Code.SUCCEEDED, "a tower")
    assert bench.rendered("is wrong") == (Code.CONFIG_ERROR, "is wrong")
    assert len({one["pid"] for one in bench.seen}) == 1
    assert not is_alive(bench.seen[0]["pid"])
    spec = bench.seen[0]["spec"]
    assert (spec["gpus"], spec["layout"], spec["device"], spec["number"]) == (1, "1x1x1", "cpu", 1)
    assert bench.rendered("is too large") == (Code.SUCCEEDED, "is too large")
    assert [(one["spec"]["number"], one["spec"]["lean"]) for one in bench.seen[3:]] == [(1, []), (2, [0])]


def test_who_waits_no_more_ends_what_is_rendered_and_other_settings_are_left_to_others(
    bench: Bench, is_alive: Any
) -> None:
    folders = StandaloneFolder.of(bench.data_dir)
    with bench.asked("a hill", "another's") as foreign:
        with bench.asked("a hill") as one, bench.asked("a hill") as other:
            counts = sorted(map(folders.before, (foreign, one, other)))
        assert counts == [0, 1, 2]
        assert folders.before(foreign) == 0
        with bench.asked("goes on") as folder:
            bench.until(lambda: bench.seen, "the attempt")
            assert folder.is_awaited
        [seen] = bench.seen
        bench.until(lambda: not is_alive(seen["pid"]), "its end")
        assert not folder.path.exists()
        assert foreign.ended is None
    assert [one["does"] for one in bench.seen] == ["goes on"]


def test_what_is_stopped_says_so(bench: Bench) -> None:
    with bench.asked("goes on") as folder:
        bench.until(lambda: bench.seen, "the attempt")
        bench.serves.stop()
        bench.serves.run()
        ended = folder.ended
        assert ended is not None
        assert (ended.code, ended.reason) == (Code.DELETED, "what renders here was stopped")
    assert StandaloneFolder.of(bench.data_dir).serving is None
