"""Real workers among messages that are no hints: they stay up, say so, and follow the hints between them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import Client
from pipeline.client.connect import Connection
from pipeline.client.doctor import Verdict, examine_connection
from pipeline.deployment.broker import RENDER, celery_app, send_hint
from pipeline.deployment.broker_keys import CONTROL_QUEUE, RENDER_QUEUE, queue_key, remote_control_channel
from pipeline.deployment.settings import Settings, load_settings
from pipeline.records.object_keys import BatchObjects
from pipeline.states import BatchState
from tests.factories import MODELS
from tests.faults.deployment import until
from tests.tasks.process.test_incoming import POISON
from tests.tasks.stage import Stage


@contextmanager
def _worker(settings: Settings, role: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tasks.worker", role],
            env={name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
            | settings.environment(),
            stdout=file,
            stderr=file,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_poison_among_hints_costs_itself_only(settings: Settings, tmp_path: Path) -> None:
    own = load_settings(settings.environment(), models=MODELS, tick_s=600.0, worker_slots=2)
    stage = Stage(own)  # announces the deployment, so that a batch can be accepted
    redis, keys = stage.ledger.store.redis, stage.ledger.store.keys
    with (
        _worker(own, "control", tmp_path / "control.log") as control,
        _worker(own, "render", tmp_path / "render.log") as render,
    ):
        until("the render worker is there", stage.ledger.workers.free_slots)
        until("the controller is there", lambda: "worker ready" in (tmp_path / "control.log").read_text())
        app = celery_app(own)
        queues = [queue_key(own.redis_prefix, queue) for queue in (CONTROL_QUEUE, RENDER_QUEUE)]
        for queue in queues:
            redis.lpush(queue, *(raw for raw, _reason in POISON.values()))
        until("poison is taken out", lambda: not any(map(redis.llen, queues)))
        for broadcast in ("[]", "{}", "no JSON", '{"properties": {"delivery_tag": 7}}'):
            redis.publish(remote_control_channel(own.redis_prefix), broadcast)
        # A key of another type stands in the queue's place while nothing else wakes the worker.
        redis.set(queues[0], "no list")
        until("it is removed", lambda: not redis.exists(queues[0]))
        # Nothing ticks: the controller is woken by the client.
        connection = Connection(own, stage.ledger, stage.artifacts)
        Client(connection).submit(["a hill"], batch_id="b", width=64, height=64)
        until("the batch is cut", lambda: stage.ledger.batches.state("b") is BatchState.IN_PROGRESS)
        assert send_hint(app, RENDER)
        until("its job is claimed", lambda: stage.ledger.jobs.held("b/00000"))
        assert (control.poll(), render.poll()) == (None, None)
    assert redis.ttl(keys.dead_letters) > 0
    warned = [f for f in examine_connection(connection) if f.what == "messages"]
    assert [finding.verdict for finding in warned] == [Verdict.WARNING]
    assert not redis.exists(f"{own.redis_prefix}:celery:unacked")
    assert stage.artifacts.get(BatchObjects("b").manifest)
    stage.close()
