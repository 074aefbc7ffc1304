"""How a replica goes through its images: who joins whom, and how it stops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import Rendered
from distri.ranks.errors import OutOfMemory
from distri.ranks.mesh import Mesh
from distri.run.leader import LeaderSignal
from distri.run.replica import ImageTooLarge, Replica, render_images
from distri.sampling.control import Control
from distri.slots.table import Table
from pipeline.records.results import FailureCode
from pipeline.records.shards import ImageTask, ShardLine, images_of
from tests.factories import attempt_spec, job_record, resolved_row

STEPS = (2, 4, 3, 2, 5)


class _Leader:
    """Notes what it is asked and given; `signals` come before RENDER, by image."""

    def __init__(self, signals: dict[int, list[LeaderSignal]] | None = None) -> None:
        self.signals = signals or {}
        self.asked: list[tuple[int, bool]] = []
        self.committed: list[tuple[int, int, bool]] = []
        self.failed: list[tuple[int, FailureCode]] = []
        self.control: Callable[[], Control] = lambda: Control.GO

    def decide(self, task: ImageTask, *, wait: bool = True) -> LeaderSignal:
        self.asked.append((task.index, wait))
        left = self.signals.get(task.index)
        return left.pop(0) if left else LeaderSignal.RENDER

    def input_png(self, _: ImageTask) -> bytes:
        return b""

    def read_ahead(self, _: ImageTask) -> None:
        """No image begins with a picture here."""

    def commit(self, task: ImageTask, rendered: Rendered, others: int) -> None:
        assert rendered.others == others
        self.committed.append((task.index, others, bool(rendered.evaluations.synchronous)))

    def fail(self, task: ImageTask, code: FailureCode, _: str) -> None:
        self.failed.append((task.index, code))


class _Provenances:
    """What an image's provenance is made of here: with how many others it was evaluated."""

    def of(self, _: ImageTask, *, others: int) -> int:
        return others


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Engine:
    return Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings())


def _run(engine: Engine, leader: _Leader, tasks: list[ImageTask], **of_spec: Any) -> None:
    spec = attempt_spec(job_record()).model_copy(update=of_spec)
    parts: Any = (engine.mesh, engine, leader, spec, {}, {}, _Provenances())
    render_images(Replica(*parts), tasks)


def _tasks(**changes: Any) -> list[ImageTask]:
    rows = [resolved_row(row, steps=steps, **changes) for row, steps in enumerate(STEPS)]
    return images_of([ShardLine(row=row, start=0, stop=1) for row in rows])


def test_an_image_joins_as_soon_as_another_has_ended(engine: Engine) -> None:
    leader = _Leader()
    _run(engine, leader, _tasks(), slots=2)
    assert leader.asked == [(0, True), (1, False), (2, False), (3, False), (4, False)]
    assert [index for index, _, _ in leader.committed] == [0, 1, 2, 3, 4]
    assert [others for _, others, _ in leader.committed] == [1, 1, 1, 1, 1]


def test_one_slot_is_one_image_after_the_other(engine: Engine) -> None:
    leader = _Leader()
    _run(engine, leader, _tasks())
    assert leader.asked == [(index, True) for index in range(5)]
    assert {others for _, others, _ in leader.committed} == {0}


def test_images_that_are_to_be_alone_have_no_others_nor_have_those_in_little_memory(engine: Engine) -> None:
    leader = _Leader()
    _run(engine, leader, _tasks(), slots=4, alone=(1,), lean=(4,))
    assert {index: others for index, others, _ in leader.committed} == {0: 0, 1: 0, 2: 1, 3: 1, 4: 0}


def test_who_waits_for_room_lets_the_others_go_on_and_is_asked_again(engine: Engine) -> None:
    leader = _Leader({1: [LeaderSignal.WAIT], 2: [LeaderSignal.SKIP]})
    _run(engine, leader, _tasks(), slots=2)
    assert leader.asked[:4] == [(0, True), (1, False), (1, False), (2, False)]
    assert sorted(index for index, _, _ in leader.committed) == [0, 1, 3, 4]


def test_a_stop_lets_those_finish_that_are_rendered_unless_control_stops_them(engine: Engine) -> None:
    leader = _Leader({2: [LeaderSignal.STOP]})
    _run(engine, leader, _tasks(), slots=2)
    assert [index for index, _, _ in leader.committed] == [0, 1]
    cancelled = _Leader()
    words = iter([Control.GO, Control.STOP])
    cancelled.control = lambda: next(words)
    _run(engine, cancelled, _tasks(), slots=2)
    assert cancelled.committed == []


def test_an_image_that_cannot_be_rendered_fails_and_the_others_are_rendered(engine: Engine) -> None:
    leader, tasks = _Leader(), _tasks()
    long = resolved_row(1, prompt="a long walk " * 60)
    tasks[1:2] = images_of([ShardLine(row=long, start=0, stop=1)])
    _run(engine, leader, tasks, slots=3)
    assert leader.failed == [(1, FailureCode.PROMPT_TOO_LONG)]
    assert sorted(index for index, _, _ in leader.committed) == [0, 2, 3, 4]


@pytest.mark.parametrize(("slots", "error"), [(1, ImageTooLarge), (2, OutOfMemory)])
def test_an_image_is_blamed_for_its_memory_only_if_it_was_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, slots: int, error: type[Exception]
) -> None:
    def runs_out(_: Table) -> None:
        raise OutOfMemory("CUDA out of memory")

    monkeypatch.setattr(Table, "evaluate", runs_out)
    with pytest.raises(error):
        _run(engine, _Leader(), _tasks(), slots=slots)
