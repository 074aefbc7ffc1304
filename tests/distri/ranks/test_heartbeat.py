"""What does not go on is noticed by a thread, named, and reported in time: on one store, with fake devices."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from queue import Queue
from typing import Any

import pytest
import torch.distributed as dist

from distri.ranks.errors import PeerLost
from distri.ranks.heartbeat import Heartbeat, limit_of
from distri.ranks.progress import Progress, Standing
from tests.distri.ranks.test_progress import Device

TIMEOUT_S = 3.0
Reports = Queue[tuple[int, PeerLost]]
Beat = Callable[[int, Progress], Heartbeat]


@pytest.fixture
def reports() -> Reports:
    return Queue()


@pytest.fixture
def beat(reports: Reports) -> Iterator[Beat]:
    """Starts the heartbeat of one of three ranks."""
    store: Any = dist.HashStore()  # type: ignore[attr-defined]
    hearts: list[Heartbeat] = []

    def started(rank: int, progress: Progress) -> Heartbeat:
        hearts.append(
            Heartbeat(
                store, "test", rank, 3, progress,
                timeout=timedelta(seconds=TIMEOUT_S), on_lost=lambda error: reports.put((rank, error)),
            )
        )  # fmt: skip
        return hearts[-1]

    yield started
    for heart in hearts:
        heart.stop()


def _waits() -> Progress:
    """Of a rank whose device waits for a message that never comes."""
    device = Device()
    progress = Progress(device.mark)
    with progress.waiting("bucket 2"):
        pass
    device.go(1)
    return progress


def _found(reports: Reports, ranks: int, began: float) -> dict[int, PeerLost]:
    found = dict(reports.get(timeout=300) for _ in range(ranks))
    assert len(found) == ranks
    assert time.monotonic() - began > limit_of(TIMEOUT_S) - 0.5
    return found


def test_the_limit_leaves_time_for_the_report_and_the_commit() -> None:
    assert limit_of(300) == 270
    assert limit_of(10) == pytest.approx(6.67, abs=0.01)


def test_a_rank_that_gives_no_sign_is_named_by_all_others(beat: Beat, reports: Reports) -> None:
    began = time.monotonic()
    beat(0, _waits())
    beat(1, _waits())
    for error in _found(reports, 2, began).values():
        assert error.missing == (2,)
        assert "no sign from 2: dead or stopped" in str(error)


def test_a_device_that_hangs_in_its_own_kernel_is_named_by_all_and_by_itself(beat: Beat, reports: Reports) -> None:
    hanging = Progress(Device().mark)
    with hanging.evaluation("evaluation 3 of 20"):
        pass
    began = time.monotonic()
    for rank, progress in enumerate((_waits(), hanging, _waits())):
        beat(rank, progress)
    for error in _found(reports, 3, began).values():
        assert error.missing == (1,)
        assert "1 hangs in its GPU, at evaluation 3 of 20" in str(error)


def test_a_program_that_comes_to_no_message_is_named_and_a_message_that_fails_names_it(
    beat: Beat, reports: Reports
) -> None:
    began = time.monotonic()
    hearts = [beat(rank, progress) for rank, progress in enumerate((Progress(), _waits(), _waits()))]
    for error in _found(reports, 3, began).values():
        assert error.missing == (0,)
        assert "0 hangs in its program" in str(error)
    missing = hearts[1].missing([0, 1, 2])
    assert missing is not None
    assert list(missing) == [0]


def test_ranks_that_have_left_are_not_missed_and_a_lost_message_blames_nobody(beat: Beat, reports: Reports) -> None:
    began = time.monotonic()
    beat(0, _waits())
    beat(1, _waits())
    beat(2, Progress()).stop()
    for error in _found(reports, 2, began).values():
        assert error.missing == ()
        assert "bucket 2" in str(error)


def test_a_device_that_does_not_even_answer_hangs(beat: Beat, reports: Reports) -> None:
    answers = threading.Event()

    class Mute(Progress):
        def standing(self) -> Standing:
            answers.wait()
            return super().standing()

    began = time.monotonic()
    beat(0, Mute())
    beat(1, _waits())
    beat(2, _waits())
    rank, error = reports.get(timeout=300)
    answers.set()
    assert time.monotonic() - began > limit_of(TIMEOUT_S) - 0.5
    assert error.missing == (0,), rank
    assert "0 hangs in its" in str(error)
