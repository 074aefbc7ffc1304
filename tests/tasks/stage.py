"""One deployment's workers and controller in this process, over the real Redis and the real bucket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.broker import celery_app
from pipeline.deployment.broker_keys import CONTROL_QUEUE, RENDER_QUEUE, queue_key
from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger
from pipeline.operations.submit import Submission, accept, checked_options
from pipeline.records.attempt import AttemptOutcome, AttemptPhase, AttemptSpec, Code
from pipeline.records.batch import JobRecord
from pipeline.records.object_keys import BatchObjects
from pipeline.records.shards import ImageTask
from pipeline.states import BatchState, ImageState, JobState
from tasks.app import render
from tasks.control import tick
from tasks.control.expand import expand
from tasks.control.finalize import finalize
from tasks.control.generation import check_ledger
from tasks.process.context import Context, Slots
from tasks.process.observer import Observer
from tests.tasks.node import Node, Play, Pod

SUCCEEDED = AttemptOutcome(Code.SUCCEEDED, "", exit_code=0)


class Stage:
    """Batches, workers and a node."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ledger, self.artifacts = Ledger(settings), Artifacts(settings)
        self.node = Node(self.all_well)
        self.worker = self.new_worker("w1")
        self._threads: list[tuple[Context, threading.Thread]] = []
        tick.announce(self.worker)
        check_ledger(self.worker)  # as the first tick does: this is where the ledger begins

    def new_worker(self, name: str, **settings: Any) -> Context:
        own = self.settings.model_copy(update=settings)
        return Context(
            settings=own,
            ledger=Ledger(own),
            artifacts=self.artifacts,
            launcher=self.node,
            observer=Observer(self.node, own.observe_s),
            app=celery_app(own),
            worker=name,
            slots=Slots(own.worker_slots),
            stopping=threading.Event(),
        )

    def pod(self, spec: AttemptSpec, uid: str | None = None) -> Pod:
        return Pod(spec, self.ledger, self.artifacts, uid)

    def all_well(self, spec: AttemptSpec) -> Play:
        """An attempt that commits all its images."""
        return [AttemptPhase.PENDING, lambda: self.pods_work(spec), AttemptPhase.RUNNING, SUCCEEDED]

    def pods_work(self, spec: AttemptSpec, choose: Callable[[list[ImageTask]], Sequence[ImageTask]] = list) -> None:
        """A pod registers and commits its images, or those that are chosen."""
        pod = self.pod(spec)
        assert pod.register() is None
        pod.commit(choose(pod.tasks))
        pod.write_fragment()

    def batch(self, rows: int = 3, batch_id: str = "b", **options: Any) -> str:
        """A batch that is accepted and expanded, without asking anybody to work on it."""
        self.accepted(rows, batch_id, **options)
        expand(self.worker, batch_id)
        return batch_id

    def accepted(self, rows: int = 3, batch_id: str = "b", **options: Any) -> str:
        prompts = [{"prompt": f"p{number}", "width": 64, "height": 64} for number in range(rows)]
        submission = Submission(options.pop("prompts", prompts), checked_options({}), batch_id, **options)
        accept(submission, self.ledger, self.artifacts)
        return batch_id

    def work(self, batch_id: str = "b", worker: Context | None = None, timeout_s: float = 300.0) -> None:
        """Work until every job of the batch is over."""
        deadline = time.monotonic() + timeout_s
        while left := self.ledger.jobs.unfinished(batch_id):
            render(worker or self.worker)
            self.ledger.leases.promote()
            if time.monotonic() > deadline:
                pytest.fail(f"jobs are not over: {[self.ledger.jobs.get(ref) for ref in left]}")
            time.sleep(0.01)

    def in_background(self, worker: Context) -> threading.Thread:
        thread = threading.Thread(target=render, args=(worker,), daemon=True)
        self._threads.append((worker, thread))
        thread.start()
        return thread

    def soon(self, condition: Callable[[], object], what: str, timeout_s: float = 300.0) -> None:
        """Return when the condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not come true in {timeout_s} s")
            time.sleep(0.01)

    def lease_ends(self, index: int = 0, batch_id: str = "b") -> None:
        """The lease of a worker that is gone runs out now."""
        store = self.ledger.store
        assert store.redis.zadd(store.keys.leases, {f"{batch_id}/{index:05d}": 1}, xx=True, ch=True) == 1

    def finalized(self, batch_id: str = "b") -> None:
        finalize(self.worker, batch_id)

    def job(self, index: int = 0, batch_id: str = "b") -> JobRecord:
        job = self.ledger.jobs.get(f"{batch_id}/{index:05d}")
        assert job is not None
        return job

    def state(self, index: int = 0) -> JobState:
        return self.job(index).state

    def batch_state(self, batch_id: str = "b") -> BatchState:
        return self.ledger.batches.state(batch_id)

    def images(self, batch_id: str = "b") -> list[str]:
        """The states of all images, which the counters agree with."""
        total = self.ledger.batches.get(batch_id).manifest.images
        states = self.ledger.images.states(batch_id, range(total))
        counts = self.ledger.batches.counts(batch_id).images
        assert {state: states.count(state) for state in ImageState} == dict(counts)
        return [state.value for state in states]

    def lines(self, name: str, batch_id: str = "b") -> list[dict[str, Any]]:
        """A file of results."""
        return [json.loads(line) for line in self.artifacts.lines(BatchObjects(batch_id).root + name)]

    def hints(self) -> list[str]:
        """Names of the tasks that were asked for and that no worker has taken."""
        names = []
        for queue in (CONTROL_QUEUE, RENDER_QUEUE):
            key = queue_key(self.settings.redis_prefix, queue)
            names += [json.loads(text)["headers"]["task"] for text in self.ledger.store.redis.lrange(key, 0, -1)]
        return names

    def close(self) -> None:
        for worker, _ in self._threads:
            worker.stopping.set()
        for _, thread in self._threads:
            thread.join(60)
        assert not [thread for _, thread in self._threads if thread.is_alive()], "a worker goes on after its test"
