"""How long `tessera schedule list` takes where there are very many."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.throughput.control import deployment
from pipeline.ledger import Ledger
from pipeline.records.schedules.schedule import Firing, FiringOutcome, changed, checked_spec, new_record


def listing(count: int) -> dict[str, Any]:
    """Seconds of the whole command, as people and as scripts call it, over schedules that have fired."""
    with ExitStack() as stack:
        _, settings, environment = deployment(stack)
        _add(Ledger(settings), count)
        found: dict[str, Any] = {"schedules": count}
        for name, options in {"table": [], "json": ["--json"]}.items():
            cpu_s, began = _cpu_s(), time.monotonic()
            command = [str(Path(sys.executable).with_name("tessera")), "schedule", "list", *options]
            listed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            found[f"{name}_s"] = round(time.monotonic() - began, 2)
            found[f"{name}_cpu_s"] = round(_cpu_s() - cpu_s, 2)
            assert len(listed.stdout.splitlines()) == count + (not options)
    return found


def _add(ledger: Ledger, count: int) -> None:
    now = ledger.now()
    for number in range(count):
        cron = f"{number % 60} {number // 60 % 24} * * *"
        spec = checked_spec({"cron": cron, "tz": "Europe/Berlin", "prompts": "s3://prompts/nightly.jsonl"})
        record = new_record(f"schedule-{number:05d}", spec, now)
        batch = f"{record.name}-batch"
        fired = Firing(id=batch, fire_at=now, outcome=FiringOutcome.SUBMITTED, recorded_at=now)
        ledger.schedules.create(record)
        ledger.schedules.write(changed(record, at=now, open=(batch,)), fired)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
