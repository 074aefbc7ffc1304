"""The control plane alone: many jobs whose pods do nothing, and the way from `submit` to a launch."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from embedded.services.services import Services, no_proxy, running_services
from pipeline import Batch, Client
from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.commit import commit_image
from pipeline.client.connect import Connection
from pipeline.deployment.settings import Settings, load_settings
from pipeline.ledger import Ledger
from pipeline.ledger.workers import ALL, Drain
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import outcome_lines
from pipeline.records.shards import images_of, parsed_shard
from pipeline.states import BatchState, ImageState, JobState
from tests.factories import MODELS, file_of, image_result

WORKERS, SLOTS = 3, 48


def control(jobs: int) -> dict[str, Any]:
    """Seconds from the first claim to the batch's end, for jobs of one image by WORKERS workers; CPU by process."""
    with ExitStack() as stack:
        services, settings, environment = deployment(stack, images_per_job=1, worker_slots=SLOTS, observe_s=0.2)
        connection = Connection(settings, Ledger(settings), Artifacts(settings))
        ledger = connection.ledger
        controller = stack.enter_context(_process(environment, "-m", "tasks.worker", "control"))
        stack.enter_context(_process(environment, "-m", "tasks.worker", "beat"))
        _until(lambda: _announced(connection), "the controller is there", 60)
        idle_worker = "-m", "benchmarks.throughput.idle_worker"
        workers = [stack.enter_context(_process(environment, *idle_worker)) for _ in range(WORKERS)]
        _until(lambda: len(ledger.workers.free_slots()) == WORKERS, "the workers are there", 60)
        _prove_model(connection)
        batch = _with_images(connection, jobs)
        ledger.workers.undrain(ALL)
        _until(lambda: ledger.store.redis.zcard(ledger.store.keys.leases), "the first claim", 60)
        groups = {
            "workers": [worker.pid for worker in workers],
            "controller": [controller.pid],
            "Redis": [services.redis.pid or 0],
            "S3": [services.s3.pid or 0],
        }
        began, cpu_before = time.monotonic(), {name: _cpu_s(pids) for name, pids in groups.items()}
        _until(lambda: not ledger.jobs.any_unfinished(batch.id), "the jobs are over", 600)
        settled = time.monotonic()
        _until(lambda: ledger.batches.state(batch.id) is BatchState.COMPLETED, "the batch is over", 600)
        ended, cpu_s = time.monotonic(), {name: _cpu_s(pids) - cpu_before[name] for name, pids in groups.items()}
        assert controller.poll() is None
        _examine(connection, batch.id, jobs)
    return {
        "jobs": jobs,
        "workers": WORKERS,
        "seconds": round(ended - began, 2),
        "jobs_a_second": round(jobs / (ended - began), 1),
        "of_it_finalization_s": round(ended - settled, 2),
        "cpu_ms_a_job": {name: round(1000 * seconds / jobs, 2) for name, seconds in cpu_s.items()},
    }


def _cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds that these processes have used, by Linux' account of them."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # of the user and of the system
    return ticks / os.sysconf("SC_CLK_TCK")


def latency(rounds: int) -> dict[str, Any]:
    """Seconds from `submit` to the record of a launch, on an idle deployment."""
    found = []
    with ExitStack() as stack:
        _, settings, environment = deployment(stack, observe_s=1.0)
        connection = Connection(settings, Ledger(settings), Artifacts(settings))
        for role in ("control", "beat"):
            stack.enter_context(_process(environment, "-m", "tasks.worker", role))
        stack.enter_context(_process(environment, "-m", "benchmarks.throughput.idle_worker"))
        _until(lambda: _announced(connection), "the controller is there", 60)
        _until(connection.ledger.workers.free_slots, "the worker is there", 60)
        _prove_model(connection)
        client = Client(connection)
        for number in range(rounds):
            began = time.time()
            batch = client.submit([{"prompt": f"hill {number}", "width": 64, "height": 64}])
            accepted = time.time()
            ref = f"{batch.id}/00000"
            _until(lambda ref=ref: (job := connection.ledger.jobs.get(ref)) is not None and job.attempt, "a launch", 60)
            launched = _launched_at(connection, ref)
            found.append((launched - began, accepted - began))
            batch.cancel()
            time.sleep(0.5)
    return {
        "rounds": rounds,
        "submit_to_launch_s": round(statistics.median(total for total, _ in found), 3),
        "slowest_s": round(max(total for total, _ in found), 3),
        "of_it_submit_s": round(statistics.median(own for _, own in found), 3),
    }


def _launched_at(connection: Connection, ref: str) -> float:
    """When the attempt was recorded, by the first event that says so."""
    batch_id = ref.partition("/")[0]
    events = connection.ledger.batches.events(batch_id, after="0", wait_s=1)
    first = next(event for event in events if event.what == "job" and event.state == JobState.LAUNCHING)
    return int(first.id.partition("-")[0]) / 1000


def deployment(stack: ExitStack, **changes: Any) -> tuple[Services, Settings, dict[str, str]]:
    """Services, settings and the environment of a deployment, which end with the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    services = stack.enter_context(running_services(folder / "services"))
    os.environ.update(services.credentials | no_proxy(os.environ))
    own = {"redis_prefix": "bench", "launcher": "local", "models": MODELS, "gpus": 1, "data_dir": folder}
    values: dict[str, Any] = services.settings | own | changes
    settings = load_settings({}, **values)
    return services, settings, dict(os.environ) | settings.environment()


@contextmanager
def _process(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    nowhere = subprocess.DEVNULL
    with subprocess.Popen([sys.executable, *arguments], env=environment, stdout=nowhere, stderr=nowhere) as process:
        try:
            yield process
        finally:
            process.kill()


def _announced(connection: Connection) -> bool:
    return bool(connection.ledger.store.redis.exists(connection.ledger.store.keys.deployment))


def _prove_model(connection: Connection) -> None:
    """One job that ends well: until then the others would wait for the one that tries the model."""
    batch, batches = _with_images(connection, 1), connection.ledger.batches
    connection.ledger.workers.undrain(ALL)
    _until(lambda: batches.state(batch.id) is BatchState.COMPLETED, "a pod has rendered with the model", 60)


def _with_images(connection: Connection, jobs: int) -> Batch:
    """A batch whose images are there before a pod renders them; workers are drained then, so that none begins."""
    connection.ledger.workers.drain(ALL, Drain.FINISH)
    batch = Client(connection).submit([{"prompt": f"hill {n}", "width": 64, "height": 64} for n in range(jobs)])
    _until(lambda: connection.ledger.batches.get(batch.id).jobs is not None, "the batch is expanded", 300)
    _put_images(connection, batch.id, jobs)
    return batch


def _put_images(connection: Connection, batch_id: str, jobs: int) -> None:
    """What the pods would have put."""
    objects, artifacts = BatchObjects(batch_id), connection.artifacts

    def put(job: int) -> None:
        results = []
        for task in images_of(parsed_shard(artifacts.get(objects.shard(job)) or b"")):
            result = image_result(task, batch_id)
            results.append(commit_image(artifacts, objects, result, file_of(result, task.index % 200)))
        artifacts.put(objects.fragment(job), outcome_lines(results), content_type="application/x-ndjson")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(jobs)))


def _examine(connection: Connection, batch_id: str, jobs: int) -> None:
    """Counters are the sums of the states, every image has one result, nothing is held."""
    ledger = connection.ledger
    counts = ledger.batches.counts(batch_id)
    assert counts.images[ImageState.SUCCEEDED] == sum(counts.images.values()) == jobs
    assert counts.jobs[JobState.SUCCEEDED] == sum(counts.jobs.values()) == jobs
    states = ledger.images.states(batch_id, range(jobs))
    assert states.count(ImageState.SUCCEEDED) == jobs
    lines = [json.loads(line) for line in connection.artifacts.lines(BatchObjects(batch_id).results)]
    assert [line["index"] for line in lines] == list(range(jobs))
    assert not ledger.store.redis.zcard(ledger.store.keys.leases)


def _until(condition: Any, what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.02)


if __name__ == "__main__":
    print(datetime.now().isoformat(timespec="seconds"), control(int(sys.argv[1])), latency(5), flush=True)
