"""What a batch's progress looks like: lines now and then, a table in a terminal, HTML in a notebook, events as JSON."""

from __future__ import annotations

import io
import json
import re
import sys
import types
from dataclasses import replace
from typing import Any

import pytest

from pipeline.client.progress import Progress, event, summary
from pipeline.client.rate import Throughput
from pipeline.operations.status import BatchStatus, JobStatus
from pipeline.records.attempt import Code
from pipeline.records.batch import AttemptEnd
from pipeline.states import BatchState, ImageState, JobState
from tests.factories import at

POD = JobStatus("b/00003", JobState.PENDING, 2, "0/4 nodes: [red]no GPU[/red] <b>", "1x2x4", "why", ())


def _look(
    seconds: float = 0, done: int = 0, state: BatchState = BatchState.IN_PROGRESS, failed: int = 0, running: int = 1
) -> BatchStatus:
    images = dict.fromkeys(ImageState, 0)
    images |= {
        ImageState.SUCCEEDED: done - failed,
        ImageState.FAILED: failed,
        ImageState.QUEUED: 100 - done,
    }
    jobs = dict.fromkeys(JobState, 0) | {JobState.RUNNING: running}
    return BatchStatus("b", state, None, at(0), at(seconds), at(seconds), images, jobs, 0)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _plain(looks: list[BatchStatus]) -> list[str]:
    stream = io.StringIO()
    with Progress(stream) as shown:
        for look in looks:
            shown.show(look, lambda: [POD])
    return stream.getvalue().splitlines()


def test_lines_come_now_and_then_and_each_thing_is_said_once() -> None:
    looks = [_look(second, done=second) for second in range(61)] + [_look(90, 60), _look(120, 60)]
    lines = _plain(looks)
    assert [re.search(r"(\d+)/100", line)[1] for line in lines] == ["0", "10", "20", "30", "40", "50", "60"]  # type: ignore[index]


def test_a_move_of_the_batch_is_said_at_once() -> None:
    lines = _plain([_look(0, 99), _look(1, 100, BatchState.FINALIZING), _look(2, 100, BatchState.COMPLETED)])
    assert [line.split()[1] for line in lines] == ["in_progress", "finalizing", "completed"]


def test_a_line_has_the_rate_and_the_rest_when_there_is_something_to_say() -> None:
    first, second = _plain([_look(0, 0), _look(60, 20, failed=2)])
    assert "min" not in first
    assert second == "b in_progress 18/100 images, 2 failed; 20 images/min, about 4 min left; jobs: 1 running 60 s"


@pytest.mark.parametrize("state", [BatchState.PAUSED, BatchState.CANCELLING, BatchState.COMPLETED])
def test_what_does_not_go_on_has_no_rest(state: BatchState) -> None:
    throughput = Throughput()
    throughput.record(0, at(0))
    throughput.record(50, at(60))
    assert "left" not in summary(_look(60, 50, state), throughput)
    assert event(_look(60, 50, state), (), throughput)["eta_s"] is None


def test_an_event_is_json_with_rate_rest_and_pods() -> None:
    throughput = Throughput()
    throughput.record(0, at(0))
    before = json.loads(json.dumps(event(_look(0), [POD], throughput)))
    assert (before["images_per_minute"], before["eta_s"]) == (None, None)
    throughput.record(50, at(60))
    found = json.loads(json.dumps(event(_look(60, 50), [POD], throughput)))
    assert (found["images_per_minute"], found["eta_s"]) == (50, 60)
    assert (found["state"], found["done"], found["total"]) == ("in_progress", 50, 100)
    [pod] = found["under_way"]
    assert (pod["job"], pod["state"], pod["attempt"], pod["layout"]) == ("b/00003", "pending", 2, "1x2x4")


def test_a_terminal_has_a_table_with_each_pod_and_its_words_as_they_stand() -> None:
    stream = _Terminal()
    with Progress(stream) as shown:
        shown.show(_look(0, 40, failed=1), lambda: [POD] * 20)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    for wanted in ("39/100", "1 failed", "00003", "pending", "1x2x4", "[red]no GPU[/red]", "and 8 more"):
        assert wanted in text


def test_at_80_columns_ids_numbers_and_what_ended_before_stand_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    codes = (Code.ENGINE_ERROR, Code.PREEMPTED, Code.PREEMPTED)
    ended = tuple(AttemptEnd(number=n + 1, code=code, reason="r", ended_at=at(0)) for n, code in enumerate(codes))
    pod = replace(POD, attempt=4, ended=ended, detail="0/4 nodes are available: 4 Insufficient nvidia.com/gpu")
    stream = _Terminal()
    with Progress(stream) as shown:
        shown.show(replace(_look(0, 10), id="20261128-041725-82604f-summer-catalogue"), lambda: [pod])
        shown.show(replace(_look(60, 40, failed=12), id="20261128-041725-82604f-summer-catalogue"), lambda: [pod])
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "20261128-041725-82604f-summer-catalogue in_progress  60 s" in lines
    assert any(line.endswith("28/100 images  12 failed  30 images/min, about 2 min left") for line in lines)
    [row] = [line for line in lines[-4:] if line.startswith("00003")]
    assert row.startswith("00003  pending  4 (1 failed, 2 disrupted)  1x2x4   0/4 nodes are ")
    assert row.endswith("…")


def test_the_jobs_are_asked_for_once_a_second_and_not_at_the_end() -> None:
    asked: list[int] = []

    def jobs() -> list[JobStatus]:
        asked.append(1)
        return [POD]

    with Progress(_Terminal()) as shown:
        for tenth in range(25):
            shown.show(_look(tenth / 10, tenth), jobs)
        shown.show(_look(30, 100, BatchState.COMPLETED), jobs)
    assert len(asked) == 3


class _Cell:
    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data)


def test_a_notebook_has_the_same_table_as_html_and_nothing_on_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = _Cell()
    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.SimpleNamespace(display=lambda *_args, **_kwargs: cell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    stream = io.StringIO()
    with Progress(stream) as shown:
        shown.show(_look(0, 40), lambda: [POD])
    [data] = cell.shown
    assert "40/100" in data["text/html"]
    assert "&lt;b&gt;" in data["text/html"]
    assert "<b>" not in data["text/html"]
    assert data["text/plain"].startswith("b in_progress 40/100 images")
    assert stream.getvalue() == ""


def test_quiet_is_quiet() -> None:
    stream = _Terminal()
    with Progress(stream, quiet=True) as shown:
        shown.show(_look(), lambda: pytest.fail("nobody looks at them"))
    assert stream.getvalue() == ""
