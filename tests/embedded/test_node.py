"""The local node with small shell scripts as attempts, and the launcher that workers use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.attempts import AttemptFolder
from embedded.launcher import LocalLauncher
from embedded.processes.marked import marked
from pipeline.records.attempt import (
    AttemptOutcome,
    AttemptPhase,
    AttemptSpec,
    Code,
    LaunchResult,
    NameTaken,
    Observation,
)

# An attempt's shard key is what it runs here.
_NODE = """
import sys
from embedded.node import main
sys.exit(main(["--data-dir", sys.argv[1], "--grace", "0.5"], command=lambda spec: ["sh", "-c", spec.image]))
"""

_REPORT = (
    """printf '{"schema_version":1,"code":"%s","message":"%s"}' {code} "{message}" > "$TESSERA_TERMINATION_LOG"; """
)


def _report(code: str, message: str = "") -> str:
    return _REPORT.replace("{code}", code).replace("{message}", message)


def _spec(script: str, name: str = "tessera-abc-00000-1", **changes: Any) -> AttemptSpec:
    values = {
        "name": name,
        "batch_id": "b",
        "incarnation": "abc",
        "job_index": 0,
        "number": 1,
        "token": "t",
        "image": script,  # the command
        "gpus": 2,
        "layout": "1x1x2",
        "exact": False,
        "warmup_steps": 1,
        "device": "cpu",
        "dtype": "float32",
        "shard_key": "batches/b/shards/00000.jsonl",
        "deadline_s": 60.0,
    }
    return AttemptSpec.model_validate(values | changes)


class Bench:
    """A data folder, its launcher, and nodes to start on it."""

    def __init__(self, data_dir: Path, patience: Any) -> None:
        self.data_dir, self.patience = data_dir, patience
        self.launcher = LocalLauncher(data_dir)
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start_node(self) -> subprocess.Popen[bytes]:
        node = subprocess.Popen([sys.executable, "-P", "-c", _NODE, str(self.data_dir)])
        self.nodes.append(node)
        return node

    def seen(self, spec: AttemptSpec, phase: AttemptPhase) -> Observation:
        def look() -> Observation | None:
            one = self.launcher.observe().get(spec.name)
            return one if one is not None and one.phase is phase else None

        seen = self.patience.until(look, what=f"{spec.name} {phase}")
        assert isinstance(seen, Observation)
        return seen

    def outcome(self, spec: AttemptSpec) -> AttemptOutcome:
        ended = self.seen(spec, AttemptPhase.ENDED).outcome
        assert ended is not None
        return ended

    def forgotten(self, spec: AttemptSpec) -> None:
        self.patience.until(lambda: spec.name not in self.launcher.observe(), what=f"{spec.name} forgotten")

    def pid_in(self, spec: AttemptSpec, file: str) -> int:
        return int(self.patience.number_in(self.data_dir / "node" / "scratch" / spec.name / file))


@pytest.fixture
def bench(tmp_path: Path, patience: Any) -> Iterator[Bench]:
    bench = Bench(tmp_path, patience)
    yield bench
    for node in bench.nodes:
        node.kill()
        node.wait()


def test_an_attempt_is_pending_until_a_node_takes_it_and_then_succeeds(bench: Bench) -> None:
    spec = _spec(_report("SUCCEEDED", "all committed"))
    assert bench.launcher.launch(spec) is LaunchResult.CREATED
    assert bench.launcher.observe()[spec.name].phase is AttemptPhase.PENDING
    bench.start_node()
    ended = bench.seen(spec, AttemptPhase.ENDED)
    assert (ended.batch_id, ended.job_index) == ("b", 0)
    assert ended.outcome is not None
    assert ended.outcome.code is Code.SUCCEEDED
    assert ended.outcome.exit_code == 0
    assert ended.outcome.report is not None
    assert ended.outcome.report.message == "all committed"


def test_an_attempt_finds_what_a_pod_needs_in_its_environment(bench: Bench) -> None:
    wanted = "$TESSERA_ATTEMPT$TESSERA_POD_UID$OMP_NUM_THREADS$PYTHONSAFEPATH$HF_HUB_OFFLINE"
    spec = _spec(f'echo "{wanted}" > seen; ' + _report("SUCCEEDED"))
    bench.launcher.launch(spec)
    bench.start_node()
    bench.outcome(spec)
    seen = (bench.data_dir / "node" / "scratch" / spec.name / "seen").read_text()
    status = AttemptFolder(bench.data_dir).status(spec.name)
    assert status is not None
    assert seen == f"{spec.model_dump_json()}{status.uid}111\n"


def test_a_failure_is_told_in_the_programs_own_words(bench: Bench) -> None:
    spec = _spec(_report("STORAGE", "bucket is away") + "exit 1")
    bench.launcher.launch(spec)
    bench.start_node()
    ended = bench.outcome(spec)
    assert (ended.code, ended.reason, ended.exit_code) == (Code.STORAGE, "bucket is away", 1)


def test_a_failure_without_a_word_shows_the_end_of_its_log(bench: Bench) -> None:
    spec = _spec("echo redis://u:secret@host is away >&2; exit 4")
    bench.launcher.launch(spec)
    bench.start_node()
    ended = bench.outcome(spec)
    assert ended.code is Code.UNKNOWN
    assert "exit code 4" in ended.reason
    assert "redis://***@host is away" in ended.reason


def test_a_killed_attempt_is_killed(bench: Bench) -> None:
    spec = _spec("kill -9 $$")
    bench.launcher.launch(spec)
    bench.start_node()
    ended = bench.outcome(spec)
    assert (ended.code, ended.exit_code) == (Code.KILLED, 137)


def test_what_an_attempt_leaves_running_ends_with_it(bench: Bench) -> None:
    spec = _spec("setsid sh -c 'echo $$ > stray; exec sleep 300' & while [ ! -s stray ]; do :; done; exit 1")
    bench.launcher.launch(spec)
    bench.start_node()
    bench.outcome(spec)
    bench.patience.gone(bench.pid_in(spec, "stray"))


def test_a_deadline_ends_everything_of_an_attempt(bench: Bench) -> None:
    script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > rank; while :; do sleep 1; done' & wait; sleep 300"
    spec = _spec(script, deadline_s=2.0)
    bench.launcher.launch(spec)
    bench.start_node()
    assert bench.outcome(spec).code is Code.DEADLINE
    bench.patience.gone(bench.pid_in(spec, "rank"))


def test_deleting_ends_an_attempt_that_ignores_sigterm_and_retires_its_name(bench: Bench) -> None:
    spec = _spec("trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done")
    bench.launcher.launch(spec)
    bench.start_node()
    pid = bench.pid_in(spec, "pid")
    bench.launcher.delete(spec.name)
    bench.forgotten(spec)
    bench.patience.gone(pid)
    with pytest.raises(NameTaken):
        bench.launcher.launch(spec)
    assert bench.launcher.observe() == {}


def test_deleting_what_has_ended_and_what_was_never_there(bench: Bench) -> None:
    spec = _spec(_report("SUCCEEDED"))
    bench.launcher.launch(spec)
    bench.start_node()
    bench.outcome(spec)
    bench.launcher.delete("tessera-never-00000-1")
    bench.launcher.delete(spec.name)
    bench.forgotten(spec)
    with pytest.raises(NameTaken):
        bench.launcher.launch(spec)


def test_an_attempt_that_is_deleted_before_a_node_saw_it_never_runs(bench: Bench) -> None:
    spec = _spec(f"touch {bench.data_dir}/ran")
    bench.launcher.launch(spec)
    bench.launcher.delete(spec.name)
    bench.start_node()
    bench.forgotten(spec)
    assert not (bench.data_dir / "ran").exists()


def test_a_spec_that_comes_back_under_a_retired_name_never_runs(bench: Bench) -> None:
    spec = _spec(f"touch {bench.data_dir}/ran")
    folder = AttemptFolder(bench.data_dir)
    folder.create(spec)
    (bench.data_dir / "node" / "gone" / spec.name).touch()
    bench.start_node()
    bench.forgotten(spec)
    assert not (bench.data_dir / "ran").exists()


def test_launching_again_adopts_the_same_spec_and_refuses_another(bench: Bench) -> None:
    spec = _spec("sleep 300")
    assert bench.launcher.launch(spec) is LaunchResult.CREATED
    assert LocalLauncher(bench.data_dir).launch(spec) is LaunchResult.ADOPTED
    with pytest.raises(NameTaken):
        bench.launcher.launch(_spec("sleep 300", token="another"))


def test_of_many_who_launch_at_once_one_creates(bench: Bench) -> None:
    spec = _spec("sleep 300")
    results: list[LaunchResult] = []
    barrier = threading.Barrier(8)

    def launch() -> None:
        barrier.wait()
        results.append(LocalLauncher(bench.data_dir).launch(spec))

    threads = [threading.Thread(target=launch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [LaunchResult.ADOPTED] * 7 + [LaunchResult.CREATED]


def test_a_killed_node_takes_its_attempts_along_and_the_next_says_so(
    bench: Bench, is_alive: Callable[[int], bool]
) -> None:
    running = _spec("echo $$ > pid; exec sleep 300", name="tessera-abc-00000-1")
    stray = _spec("setsid sh -c 'echo $$ > pid; exec sleep 300' & wait", name="tessera-abc-00001-1")
    done = _spec(_report("SUCCEEDED"), name="tessera-abc-00002-1")
    for spec in (running, stray, done):
        bench.launcher.launch(spec)
    node = bench.start_node()
    direct, orphan = bench.pid_in(running, "pid"), bench.pid_in(stray, "pid")
    bench.outcome(done)
    node.kill()
    node.wait()
    bench.patience.gone(direct)  # by the kernel; the orphan's own parent was the shell, which said nothing to it
    assert bench.launcher.observe()[running.name].phase is AttemptPhase.RUNNING
    assert is_alive(orphan)
    bench.start_node()
    assert bench.outcome(running).code is Code.NODE_LOST
    assert bench.outcome(stray).code is Code.NODE_LOST
    assert bench.outcome(done).code is Code.SUCCEEDED
    bench.patience.gone(orphan)


def test_a_node_that_is_asked_to_stop_ends_its_attempts_and_says_so(bench: Bench) -> None:
    spec = _spec("trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done")
    bench.launcher.launch(spec)
    node = bench.start_node()
    pid = bench.pid_in(spec, "pid")
    node.terminate()
    assert node.wait(timeout=300) == 0
    bench.patience.gone(pid)
    assert bench.outcome(spec).code is Code.NODE_LOST


@pytest.mark.parametrize(
    ("text", "code"), [('{"schema_version": 99}', Code.TOO_OLD), ('{"schema_version": 1}', Code.CONFIG_ERROR)]
)
def test_a_spec_that_the_node_cannot_read_ends_and_its_neighbours_run(bench: Bench, text: str, code: Code) -> None:
    foreign = bench.data_dir / "node" / "attempts" / "tessera-new-00000-1.spec.json"
    foreign.write_text(text)
    spec = _spec(_report("SUCCEEDED"))
    bench.launcher.launch(spec)
    bench.start_node()
    assert bench.outcome(spec).code is Code.SUCCEEDED
    refused = bench.launcher.observe()["tessera-new-00000-1"]
    assert refused.outcome is not None
    assert refused.outcome.code is code


def test_processes_are_found_by_what_they_were_started_with(tmp_path: Path, patience: Any) -> None:
    process = subprocess.Popen(
        ["/bin/sh", "-c", "setsid sh -c 'echo $$ > deep; exec sleep 300' & wait"],
        env={"PATH": "/usr/bin:/bin", "MARK": "x1"},
        cwd=tmp_path,
    )
    deep = patience.number_in(tmp_path / "deep")
    assert {process.pid, deep} <= marked("MARK", "x1")
    assert marked("MARK", "x") == set()
    for pid in marked("MARK", "x1"):
        os.kill(pid, signal.SIGKILL)
    process.wait()
