"""A worker that is drained takes no new job; what it has ends with it, or goes to others at once."""

from __future__ import annotations

import threading

import pytest

from pipeline import Client
from pipeline.client.connect import Connection
from pipeline.errors import RequestError
from pipeline.ledger.workers import ALL, Drain
from pipeline.records.attempt import AttemptPhase
from pipeline.states import JobState
from tasks.app import render
from tasks.control import tick
from tasks.worker import _report
from tests.tasks.stage import SUCCEEDED, Stage


def _client(stage: Stage) -> Client:
    return Client(Connection(stage.settings, stage.ledger, stage.artifacts))


@pytest.mark.parametrize("whom", ["w1", ALL])
def test_it_takes_no_new_job_until_it_is_told_to(stage: Stage, whom: str) -> None:
    stage.batch(1)
    stage.ledger.workers.report("w1", 3)
    stage.ledger.workers.drain(whom, Drain.FINISH)
    render(stage.worker)
    tick.publish_hints(stage.worker)
    assert (stage.state(), stage.hints()) == (JobState.QUEUED, [])
    assert stage.ledger.workers.undrain(whom)
    stage.work()
    assert stage.images() == ["succeeded"]


def test_another_worker_takes_what_a_drained_one_does_not(stage: Stage) -> None:
    stage.batch(1)
    stage.ledger.workers.drain("w1", Drain.FINISH)
    stage.work(worker=stage.new_worker("w2"))
    assert stage.images() == ["succeeded"]


def test_what_it_has_it_looks_after_to_the_end_and_takes_no_more(stage: Stage) -> None:
    stage.batch(5)
    stage.node.play = lambda _: [lambda: stage.ledger.workers.drain("w1", Drain.FINISH), AttemptPhase.RUNNING]
    thread = stage.in_background(stage.worker)
    stage.soon(lambda: stage.state(0) is JobState.RUNNING, "a running job")
    stage.ledger.workers.report("w1", 1)
    [seen] = stage.ledger.workers.listing()
    assert (seen.name, seen.free, seen.jobs, seen.drain) == ("w1", 0, 1, Drain.FINISH)
    spec = stage.job(0).attempt
    assert spec is not None
    stage.pods_work(spec)
    stage.node._left[spec.name][:] = [SUCCEEDED]
    thread.join(60)
    assert not thread.is_alive()
    assert (stage.state(0), stage.state(1)) == (JobState.SUCCEEDED, JobState.QUEUED)


def test_handing_over_leaves_the_pod_alone_and_another_adopts_it(stage: Stage) -> None:
    stage.batch(1)
    stage.node.play = lambda _: [AttemptPhase.RUNNING]
    drained = stage.new_worker("w1", lease_s=600.0)
    thread = stage.in_background(drained)
    stage.soon(lambda: stage.state() is JobState.RUNNING, "a running job")
    stage.ledger.workers.drain("w1", Drain.HAND_OVER)
    threading.Thread(target=_report, args=(drained,), daemon=True).start()
    thread.join(60)
    assert not thread.is_alive()
    [name] = stage.node.running
    assert not stage.ledger.jobs.held("b/00000")
    stage.in_background(stage.new_worker("w2"))
    stage.soon(lambda: stage.ledger.jobs.held("b/00000"), "the adoption")
    spec = stage.job().attempt
    assert spec is not None
    stage.pods_work(spec)
    stage.node._left[name][:] = [SUCCEEDED]
    stage.soon(lambda: stage.state() is JobState.SUCCEEDED, "the end")
    assert stage.node.launched == [name]


def test_a_worker_is_named_by_its_name_or_its_host(stage: Stage) -> None:
    names = ["render@gpu-a-17-ab12", "render@gpu-b-18-cd34"]
    for name in names:
        stage.ledger.workers.report(name, 1)
    client = _client(stage)
    assert client.drain("gpu-a") == names[:1]
    assert client.drain(names[1], hand_over=True) == names[1:]
    assert [one.drain for one in client.workers()] == [Drain.FINISH, Drain.HAND_OVER]
    with pytest.raises(RequestError, match=r"no worker 'gpu-c'; alive: render@gpu-a-17-ab12, render@gpu-b-18-cd34"):
        client.drain("gpu-c")
    assert client.undrain(None) == names
    assert [one.drain for one in client.workers()] == [None, None]


def test_draining_all_holds_for_workers_that_come_later(stage: Stage) -> None:
    client = _client(stage)
    client.drain(None)
    stage.batch(1)
    stage.ledger.workers.report("late", 1)
    render(stage.new_worker("late"))
    assert (stage.state(), [one.drain for one in client.workers()]) == (JobState.QUEUED, [Drain.FINISH])
    with pytest.raises(RequestError, match="undrain --all"):
        client.undrain("late")
