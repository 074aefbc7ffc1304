"""Engines that wait for another attempt: processes that do what a rank does between attempts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.attempts import AttemptFolder, AttemptStatus
from embedded.launcher import LocalLauncher
from pipeline.client.warm_engines import engines_folder, warm_engines
from pipeline.records.attempt import AttemptOutcome, AttemptSpec, Code

# What an attempt does is its token: end well, with exit code 1, or go on until it is asked to end.
_ENGINE = """
import json, os, signal, sys, time
from distri.run.next_attempt import NextAttempt
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
waiting = NextAttempt.of(os.environ, 0)
while True:
    spec = json.loads(os.environ["TESSERA_ATTEMPT"])
    print("attempt", spec["name"], os.environ["TESSERA_POD_UID"], flush=True)
    with open("pid", "w") as file:
        file.write(str(os.getpid()))
    while spec["token"] == "goes on" and not asked:
        time.sleep(0.02)
    with open(os.environ["TESSERA_TERMINATION_LOG"], "w") as file:
        file.write(json.dumps({"schema_version": 1, "code": "SUCCEEDED", "message": spec["name"]}))
    if spec["token"] == "fails" or waiting is None:
        sys.exit(spec["token"] == "fails")
    if not waiting.wait(0, model="demo", memory_bytes=7, give_up=lambda: asked):
        sys.exit(143)
"""
_NODE = f"""
import sys
from pathlib import Path
from embedded.node import Node
import signal
node = Node(Path(sys.argv[1]), lambda spec: [sys.executable, "-P", "-c", {_ENGINE!r}], warm_s=float(sys.argv[2]))
signal.signal(signal.SIGTERM, lambda *_: node.stop())
node.run()
"""


def _spec(index: int, does: str = "ends well", **changes: Any) -> AttemptSpec:
    values = {
        "name": f"tessera-abc-{index:05d}-1",
        "batch_id": "b",
        "incarnation": "abc",
        "job_index": index,
        "number": 1,
        "token": does,
        "image": "local",
        "gpus": 1,
        "layout": "1x1x1",
        "exact": False,
        "warmup_steps": 1,
        "device": "cpu",
        "dtype": "float32",
        "shard_key": f"batches/b/shards/{index:05d}.jsonl",
        "deadline_s": 60.0,
    }
    return AttemptSpec.model_validate(values | changes)


class Bench:
    """A data folder, its launcher, and a node on it."""

    def __init__(self, data_dir: Path, patience: Any) -> None:
        self.data_dir, self.patience = data_dir, patience
        self.launcher, self.attempts = LocalLauncher(data_dir), AttemptFolder(data_dir)
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start_node(self, warm_s: float = 300) -> subprocess.Popen[bytes]:
        self.nodes.append(subprocess.Popen([sys.executable, "-P", "-c", _NODE, str(self.data_dir), str(warm_s)]))
        return self.nodes[-1]

    def ended(self, spec: AttemptSpec) -> AttemptOutcome:
        def look() -> AttemptOutcome | None:
            one = self.launcher.observe().get(spec.name)
            return one.outcome if one is not None else None

        ended = self.patience.until(look, timeout_s=300, what=f"the end of {spec.name}")
        assert isinstance(ended, AttemptOutcome)
        return ended

    def run(self, spec: AttemptSpec) -> tuple[AttemptOutcome, int]:
        """How it ended, and which process it ran in."""
        self.launcher.launch(spec)
        return self.ended(spec), self.pid(spec)

    def pid(self, spec: AttemptSpec) -> int:
        return int(self.patience.number_in(self.data_dir / "node" / "scratch" / spec.name / "pid"))

    def status(self, spec: AttemptSpec) -> AttemptStatus:
        status = self.attempts.status(spec.name)
        assert status is not None
        return status

    def log(self, spec: AttemptSpec) -> str:
        return (self.data_dir / "logs" / "attempts" / f"{spec.name}.log").read_text()


@pytest.fixture
def bench(tmp_path: Path, patience: Any) -> Iterator[Bench]:
    bench = Bench(tmp_path, patience)
    yield bench
    for node in bench.nodes:
        node.kill()
        node.wait()


def test_the_next_attempt_of_a_kind_gets_the_same_process_and_a_report_log_and_uid_of_its_own(bench: Bench) -> None:
    bench.start_node()
    (first, pid), (second, again) = bench.run(_spec(1)), bench.run(_spec(2))
    assert (first.code, second.code) == (Code.SUCCEEDED, Code.SUCCEEDED)
    assert pid == again
    assert (first.reason, second.reason) == (_spec(1).name, _spec(2).name)
    uids = [bench.status(_spec(number)).uid for number in (1, 2)]
    assert uids[0] != uids[1]
    for number, uid in zip((1, 2), uids, strict=True):
        assert bench.log(_spec(number)) == f"attempt {_spec(number).name} {uid}\n"


def test_an_engine_that_waits_says_which_model_it_holds(bench: Bench) -> None:
    bench.start_node()
    bench.run(_spec(1))
    [waits] = warm_engines(engines_folder(bench.data_dir))
    assert (waits.model, waits.ranks, waits.memory_bytes, waits.ends_after_s) == ("demo", 1, 7, 300)
    bench.launcher.launch(_spec(2, "goes on"))
    bench.pid(_spec(2))
    assert warm_engines(engines_folder(bench.data_dir)) == []


@pytest.mark.parametrize(
    "other", [{"dtype": "bfloat16"}, {"exact": True}, {"number": 2}, {"lean": (0,)}], ids=lambda one: next(iter(one))
)
def test_another_kind_and_a_retry_get_processes_of_their_own_once_the_others_are_gone(
    bench: Bench, other: dict[str, Any], is_alive: Any
) -> None:
    bench.start_node()
    _, pid = bench.run(_spec(1))
    bench.launcher.launch(_spec(2, "goes on", **other))
    assert bench.pid(_spec(2)) != pid
    assert not is_alive(pid)


def test_an_engine_whose_attempt_failed_is_not_used_again(bench: Bench, is_alive: Any) -> None:
    bench.start_node()
    failed, pid = bench.run(_spec(1, "fails"))
    assert (failed.code, failed.exit_code) == (Code.UNKNOWN, 1)
    assert not is_alive(pid)
    _, other = bench.run(_spec(2))
    assert other != pid


def test_deleting_an_attempt_ends_its_engine_and_only_its(bench: Bench) -> None:
    bench.start_node()
    _, pid = bench.run(_spec(1))
    bench.launcher.launch(_spec(2, "goes on"))
    assert bench.pid(_spec(2)) == pid
    bench.launcher.delete(_spec(2).name)
    bench.patience.gone(pid)
    assert bench.run(_spec(3))[1] != pid


def test_a_deadline_counts_from_the_attempt_and_not_from_the_engine(bench: Bench) -> None:
    bench.start_node()
    _, pid = bench.run(_spec(1))
    bench.launcher.launch(_spec(2, "goes on", deadline_s=2.0))
    assert bench.pid(_spec(2)) == pid
    assert bench.ended(_spec(2)).code is Code.SUCCEEDED  # it had committed everything when it was asked to end
    assert bench.status(_spec(2)).deadline_exceeded
    bench.patience.gone(pid)


def test_an_engine_ends_when_it_has_waited_long_enough(bench: Bench) -> None:
    bench.start_node(warm_s=0.2)
    _, pid = bench.run(_spec(1))
    bench.patience.gone(pid)
    bench.patience.until(lambda: not list(engines_folder(bench.data_dir).iterdir()), what="an empty folder")


def test_no_engine_waits_where_that_is_turned_off(bench: Bench, is_alive: Any) -> None:
    bench.start_node(warm_s=0)
    ended, pid = bench.run(_spec(1))
    assert ended.code is Code.SUCCEEDED
    assert not is_alive(pid)


def test_engines_that_wait_end_with_their_node(bench: Bench) -> None:
    node = bench.start_node()
    _, pid = bench.run(_spec(1))
    node.terminate()
    assert node.wait(timeout=300) == 0
    bench.patience.gone(pid)
    assert list(engines_folder(bench.data_dir).iterdir()) == []


def test_an_attempt_in_a_warm_engine_is_lost_with_its_node_and_the_next_node_says_so(bench: Bench) -> None:
    node = bench.start_node()
    bench.run(_spec(1))
    bench.launcher.launch(_spec(2, "goes on"))
    pid = bench.pid(_spec(2))
    node.kill()
    node.wait()
    bench.start_node()
    assert bench.ended(_spec(2)).code is Code.NODE_LOST
    bench.patience.gone(pid)
    assert bench.ended(_spec(1)).code is Code.SUCCEEDED
