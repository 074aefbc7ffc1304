"""A rank's progress tells what its device waits for or hangs in, and how long it stood still."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from distri.ranks import progress
from distri.ranks.progress import Mark, Progress


@dataclass
class Device:
    """Passes marks in their order when it is asked to; each takes it 10 ms."""

    passed: int = 0
    made: int = 0
    recorded: list["FakeMark"] = field(default_factory=list)

    def mark(self) -> Mark:
        self.made += 1
        return FakeMark(self)

    def go(self, marks: int = 1_000_000) -> None:
        self.passed = min(len(self.recorded), self.passed + marks)


@dataclass(eq=False)
class FakeMark:
    device: Device
    place: int = 0

    def record(self) -> None:
        self.place = len(self.device.recorded)
        self.device.recorded.append(self)

    def query(self) -> bool:
        return self.device.passed > self.place

    def synchronize(self) -> None:
        self.device.passed = max(self.device.passed, self.place + 1)

    def elapsed_time(self, end_event: Any) -> float:
        assert self.query(), "read before it is passed"
        assert end_event.query(), "read before it is passed"
        return 10.0 * float(end_event.place - self.place)


def test_a_device_that_waits_is_told_from_one_that_hangs_before_its_wait() -> None:
    device = Device()
    rank = Progress(device.mark)
    with rank.waiting("bucket 3"):
        pass
    before = rank.standing()
    assert (before.what, before.waits, before.device, before.steps) == ("bucket 3", False, True, 1)
    device.go(1)
    waiting = rank.standing()
    assert (waiting.what, waiting.waits, waiting.device) == ("bucket 3", True, True)
    device.go()
    after = rank.standing()
    assert (after.waits, after.device, after.steps) == (False, False, 2)


def test_a_kernel_that_hangs_in_an_evaluation_is_no_wait() -> None:
    device = Device()
    rank = Progress(device.mark)
    with rank.evaluation("evaluation 1 of 4"):
        assert rank.standing().in_evaluation
    standing = rank.standing()
    assert (standing.what, standing.waits, standing.device) == ("evaluation 1 of 4", False, True)
    assert standing.evaluations == 0
    device.go()
    assert rank.standing().evaluations == 1


def test_stalls_are_read_once_the_device_has_passed_them_and_their_marks_serve_again() -> None:
    device = Device()
    rank = Progress(device.mark)
    for number in range(50):
        with rank.waiting("messages"):
            pass
        assert rank.stalled_s() == pytest.approx(0.01 * number)
        device.go()
        assert rank.stalled_s() == pytest.approx(0.01 * (number + 1))
    assert device.made == 2


def test_a_host_far_ahead_waits_and_keeps_few_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MOST_WAITS", 8)
    device = Device()
    rank = Progress(device.mark)
    for _ in range(100):
        with rank.waiting("messages"):
            pass
    assert device.made <= 2 * 9
    device.go()
    assert rank.stalled_s() == pytest.approx(1.0)


def test_the_program_stays_two_evaluations_ahead_of_its_device() -> None:
    device = Device()
    rank = Progress(device.mark)
    for _ in range(6):
        with rank.evaluation("one"):
            pass
    assert rank.standing().evaluations == 4


def test_without_a_device_the_program_itself_waits() -> None:
    rank = Progress()
    rank_stood_still = rank.stalled_s()
    with rank.waiting("messages"):
        standing = rank.standing()
        assert (standing.what, standing.waits, standing.device) == ("messages", True, False)
    assert not rank.standing().waits
    assert rank.stalled_s() > rank_stood_still
    with rank.waiting_on_host("the leader's word"):
        assert rank.standing().waits
    with rank.evaluation("evaluation 1"):
        assert rank.standing().what == "evaluation 1"
    assert rank.standing().evaluations == 1
