"""A million rows: submitted, expanded, looked at, submitted again, and somebody who comes behind them."""

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.bulk.deployment import Bench, deployment, until
from benchmarks.bulk.rows import write_rows
from pipeline import Client
from pipeline.operations.status import batch_status, jobs_status
from pipeline.operations.submit import Submission, accept, checked_options
from pipeline.records.object_keys import BatchObjects
from pipeline.states import ImageState, JobState

LOOKS, CLAIMS = 200, 40


def scale(rows: int, *, pod_s: float = 4.0) -> dict[str, Any]:
    """Seconds, megabytes and Redis commands of a batch of so many rows."""
    with deployment() as bench:
        prompts = bench.folder / "prompts.jsonl"
        size = write_rows(prompts, rows)
        small = accept(_rows_of("small", 10), bench.connection.ledger, bench.connection.artifacts).manifest.id
        bench.await_queued(small)
        before_mb, cpu = bench.redis_mb(), bench.watch.cpu()
        began = time.monotonic()
        submit_s = bench.tessera("submit", "submit", str(prompts), "--batch-id", "big")
        bench.await_queued("big")
        total_s = time.monotonic() - began
        queued = {
            "rows": rows,
            "file_mb": round(size / 1e6, 1),
            "jobs": bench.connection.ledger.batches.get("big").jobs,
            "submit_s": round(submit_s, 1),
            "expand_s": round(total_s - submit_s, 1),
            "total_s": round(total_s, 1),
            "redis_mb": round(bench.redis_mb() - before_mb, 1),
            "processes": bench.watch.report(since=cpu),
        }
        found: dict[str, Any] = {"queued": queued}
        print(queued, flush=True)
        _examine(bench, rows)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "status": lambda: _status(bench, small),
            "fair": lambda: _fair(bench),
            "interactive": lambda: _interactive(bench, pod_s),
            "again": lambda: _again(bench, str(prompts)),
        }
        for name, measured in parts.items():
            found[name] = measured()
            print(name, found[name], flush=True)
        return found


def _rows_of(batch_id: str, rows: int, **options: Any) -> Submission:
    prompts = [{"prompt": f"hill {number}", "width": 1024, "height": 1024} for number in range(rows)]
    return Submission(prompts, checked_options({}), batch_id, **options)


def _examine(bench: Bench, rows: int) -> None:
    """Counters are the sum of the states, every row is in exactly one shard line."""
    ledger, artifacts = bench.connection.ledger, bench.connection.artifacts
    record, counts = ledger.batches.get("big"), ledger.batches.counts("big")
    assert counts.images[ImageState.QUEUED] == sum(counts.images.values()) == rows
    assert counts.jobs[JobState.QUEUED] == sum(counts.jobs.values()) == record.jobs
    assert len(ledger.jobs.unfinished("big")) == record.jobs
    seen = bytearray(rows)
    for index in range(record.jobs or 0):
        for line in artifacts.lines(BatchObjects("big").shard(index)):
            seen[json.loads(line)["row"]["row"]] += 1
    assert set(seen) == {1}


def _status(bench: Bench, small: str) -> dict[str, Any]:
    """One look, as `tessera status` takes it: at the large batch, and at one of ten rows."""
    ledger = bench.connection.ledger

    def look(batch_id: str) -> None:
        batch_status(ledger, batch_id)
        jobs_status(ledger, batch_id)

    found: dict[str, Any] = {}
    for name, batch_id in (("small", small), ("large", "big")):
        look(batch_id)
        calls, server_us = bench.redis_calls(), bench.redis_us()
        times = [_timed(partial(look, batch_id)) for _ in range(LOOKS)]
        found[name] = {
            "median_ms": round(1000 * statistics.median(times), 2),
            "slowest_ms": round(1000 * max(times), 2),
            "in_redis_ms": round((bench.redis_us() - server_us) / LOOKS / 1000, 3),
            "commands": round((bench.redis_calls() - calls) / LOOKS, 1),
        }
    found["command_line_s"] = round(bench.tessera("status", "status", "big"), 2)
    return found


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _again(bench: Bench, prompts: str) -> dict[str, Any]:
    """The same rows under the same id: nothing changes, neither in Redis nor in the bucket, though jobs have begun."""
    ledger, artifacts = bench.connection.ledger, bench.connection.artifacts

    def look() -> object:
        return ledger.batches.get("big"), ledger.batches.counts("big"), sorted(artifacts.sizes("batches/big/"))

    before = look()
    seconds = bench.tessera("submit again", "submit", prompts, "--batch-id", "big", "--json")
    assert json.loads(bench.log("submit again").splitlines()[-1])["created"] is False
    assert look() == before
    return {"seconds": round(seconds, 1), "changed": 0}


def _fair(bench: Bench) -> dict[str, Any]:
    """Whose jobs are claimed, when two other tenants come behind the large batch; and what a claim takes."""
    ledger = bench.connection.ledger
    for tenant in ("second", "third"):
        accept(_rows_of(tenant, 2000, tenant=tenant), ledger, bench.connection.artifacts)
        bench.await_queued(tenant)
    leases, times = [], []
    for _ in range(CLAIMS):
        began = time.perf_counter()
        lease = ledger.leases.claim("bench", 600)
        times.append(time.perf_counter() - began)
        assert lease is not None
        leases.append(lease)
    shares = Counter(lease.job.tenant for lease in leases)
    for lease in leases:
        ledger.leases.release(lease.job.ref, lease.fence)
    return {"claims": dict(sorted(shares.items())), "claim_ms": round(1000 * statistics.median(times), 2)}


def _interactive(bench: Bench, pod_s: float) -> dict[str, Any]:
    """Seconds from the submission of one urgent row to its launch, while all slots look after the large batch."""
    ledger, slots = bench.connection.ledger, bench.connection.settings.worker_slots

    def launched(batch_id: str) -> None:
        Client(bench.connection).submit([{"prompt": "now"}], batch_id=batch_id, priority=0)
        ref = f"{batch_id}/00000"
        until(lambda: (job := ledger.jobs.get(ref)) is not None and job.attempt, "it is launched", 300)

    waited = []
    with bench.process("worker", "-m", "benchmarks.bulk.sleeping_worker", str(pod_s)):
        until(lambda: len(ledger.jobs.begun("big", 100)) >= slots, "all slots are taken", 120)
        for number in range(5):
            waited.append(_timed(partial(launched, f"urgent-{number}")))
    return {
        "pod_s": pod_s,
        "slots": slots,
        "waited_s": [round(seconds, 2) for seconds in waited],
        "slowest_s": round(max(waited), 2),
    }
