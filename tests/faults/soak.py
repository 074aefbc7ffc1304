"""Do harm to something every few seconds for many minutes, then ask for the invariants of every batch.

`make soak MINUTES=10`, or `python -m tests.faults.soak --minutes 10 --seed 7`: a seed gives the same harm in the same
order again; several are tried one after the other. The last line of each says what was survived, and under `broken`
what was not; `--output` writes them as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import redis

from embedded.services.services import running_services
from pipeline import Batch
from pipeline.deployment.broker import EXPAND, FINALIZE, RENDER, TICK, celery_app, send_hint
from pipeline.deployment.broker_keys import CONTROL_QUEUE, RENDER_QUEUE, queue_key
from pipeline.errors import BatchLost, ServiceError, TesseraError, WaitTimeout
from pipeline.operations.discrepancies import DiscrepancyKind, Verification
from pipeline.records.object_keys import MARKERS, BatchObjects
from pipeline.records.results import FailureCode
from pipeline.states import BatchState, is_final
from tests.faults.deployment import Deployment, until
from tests.faults.invariants import END_S, ends_well
from tests.faults.object_harm import ObjectHarm
from tests.faults.redis_files import Copy, RedisFiles
from tests.tasks.process.test_incoming import POISON

PARTS = ("node", "control-1", "control-2", "beat-1", "beat-2", "render-1", "render-2", "render-3")
AT_A_TIME = 3  # batches
COPY_EVERY_S, COPIES = 5.0, 12  # of Redis' file: what it may be rolled back to, up to a minute
HIDDEN_S = 15.0
REPAIR_S = 300.0
# Nobody can write a batch's rows again; shards only from those.
ROWS_GONE = ({DiscrepancyKind.INPUT_GONE}, {DiscrepancyKind.INPUT_GONE, DiscrepancyKind.SHARD_GONE})
LATEST = 4  # batches that harm is done to the objects of


class Soak:
    """A deployment under harm. Every kind of harm takes a number in [0, 1) that says to whom, or how long."""

    def __init__(self, deployment: Deployment, seed: int) -> None:
        self.deployment = deployment
        self.random = random.Random(seed)
        self._sizes = random.Random(seed)  # of its own: how many batches there are depends on the machine
        self.batches: list[Batch] = []
        self.cancelled: set[str] = set()
        self.repaired = 0
        self.failed: set[str] = set()  # their rows were deleted
        self.done: Counter[str] = Counter()
        self._later: list[tuple[float, Callable[[], object]]] = []
        self.objects = ObjectHarm(deployment, lambda done: print(f"          {done}", flush=True))
        self._files = RedisFiles(deployment.services, deployment.folder / "redis-copies")
        self._copies: deque[Copy] = deque()
        self.forgotten_s = 0.0  # the most that Redis has forgotten at a time

    def run(self, minutes: float) -> None:
        """Submit and do harm for so long, then let everything come to rest."""
        kinds = list(HARM)
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            pause_s, kind, pick = self.random.uniform(2, 6), self.random.choice(kinds), self.random.random()
            resume = time.monotonic() + pause_s
            while time.monotonic() < resume:
                self._tend()
                time.sleep(0.1)
            print(f"{60 * minutes - (end - time.monotonic()):6.1f} s  {kind} ({pick:.3f})", flush=True)
            HARM[kind](self, pick)
            self.done[kind] += 1
            self._submit()
        while self._later:
            self._tend()
            time.sleep(0.1)

    def broken(self) -> dict[str, str]:
        """What is wrong with each batch that is not as it should be, once everything has come to rest."""
        self.deployment.client.resume()
        found: dict[str, str] = {}
        for batch in self.batches:
            try:
                self._ends_well(batch)
            except (AssertionError, TesseraError) as error:
                found[batch.id] = f"{type(error).__name__}: {error}"
                print(f"          {batch.id} is broken: {error}", flush=True)
        return found

    def _ends_well(self, batch: Batch) -> None:
        self._wait_while_it_moves(batch)
        found = until(f"{batch.id} is at rest", lambda: self._look_at_rest(batch), END_S)
        if not found.ok:
            # What harm did to the objects of a batch after its end nobody notices before they are asked for.
            kinds = [one.kind.value for one in found.discrepancies]
            print(f"          {batch.id} is repaired: {', '.join(kinds)}", flush=True)
            self.repaired += 1
            until(f"{batch.id} is repaired", lambda: self._is_whole(batch), REPAIR_S)
        status = batch.wait(timeout_s=END_S)
        if status.state is BatchState.FAILED and batch.id in self.objects.lost_rows:
            assert status.reason, f"{batch.id} failed without a reason"
            self.failed.add(batch.id)
            self.deployment.batches[batch.id] = True
            return
        if batch.id in self.objects.lost_rows and self._has_lost_shards(batch):
            self.deployment.batches[batch.id] = True
            return
        # A cancellation that Redis has forgotten was never asked for.
        state = BatchState.CANCELLED if batch.id in self.cancelled else BatchState.COMPLETED
        state = BatchState.COMPLETED if self.forgotten_s and status.state is BatchState.COMPLETED else state
        ends_well(self.deployment, batch, state, failed=None, harmed=self.objects.harmed)
        codes = {failure.code for failure in batch.errors()}
        assert codes <= {FailureCode.POISON, FailureCode.CANCELLED}, f"{batch.id}: {codes}"

    def _wait_while_it_moves(self, batch: Batch) -> None:
        """Until it is over: on a machine that others keep busy it may take long, but it gets further."""
        before = -1
        while True:
            try:
                batch.wait(timeout_s=END_S)
            except WaitTimeout:
                if (there := batch.status().succeeded) <= before:
                    raise
                before = there
            else:
                return

    def _look_at_rest(self, batch: Batch) -> Verification | None:
        """What is found, and asked to be repaired, of a batch that nobody works on; None if somebody does.

        A batch that the controller rebuilds under our eyes is not compared as a whole.
        """
        if not batch.status().finished:
            return None
        found = batch.verify(repair=True, deep=True)
        return found if found.redis is not None and is_final(found.redis) else None

    def _has_lost_shards(self, batch: Batch) -> bool:
        """Whether shards and rows are gone, so that the wire cannot be asked of each image; all else is well."""
        found = batch.verify(deep=True)
        if DiscrepancyKind.SHARD_GONE not in {one.kind for one in found.discrepancies}:
            return False
        proved = (found.succeeded, found.failed, found.cancelled)
        assert sum(proved) == found.images, f"{batch.id}: of {found.images} images {proved} are proved"
        return True

    def _is_whole(self, batch: Batch) -> bool:
        if (found := self._look_at_rest(batch)) is None:
            return False
        kinds = {one.kind for one in found.discrepancies}
        if batch.id in self.objects.lost_rows and (batch.status().state is BatchState.FAILED or kinds in ROWS_GONE):
            return True  # its images are there, or it failed
        return not kinds

    def _tend(self) -> None:
        """Start again who ended, as a supervisor does, and end what was to last only so long."""
        for name, child in self.deployment.children.items():
            if child.exit_code() is not None:
                self.deployment.start(name)
        if self.deployment.services.redis.exit_code() is not None:
            self.deployment.services.redis.start()
        now = time.monotonic()
        if not self._copies or now - self._copies[-1].at > COPY_EVERY_S:
            self._copies.append(self._files.copy())
            if len(self._copies) > COPIES:
                self._files.drop(self._copies.popleft())
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            entry[1]()

    def _submit(self) -> None:
        try:
            running = [batch for batch in self.batches if not self._is_over(batch)]
            if len(running) < AT_A_TIME:
                size = self._sizes.choice([64, 128, 192])
                name = f"soak-{len(self.batches)}"
                images = self._sizes.randint(3, 12)
                self.batches.append(
                    self.deployment.submit(
                        images, batch_id=name, width=size, height=size, steps=self._sizes.randint(2, 8)
                    )
                )
        except ServiceError as error:
            print(f"          not submitted: {error}", flush=True)

    def _is_over(self, batch: Batch) -> bool:
        try:
            return batch.status().finished
        except BatchLost:  # nothing brings it back but `resume`, if it has ended
            objects, artifacts = BatchObjects(batch.id), self.deployment.artifacts
            return any(artifacts.head(objects.marker(state)) is not None for state in MARKERS)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + seconds, action))

    def one(self, role: str, pick: float) -> str:
        names = [name for name in PARTS if name.startswith(role)]
        return names[int(pick * len(names))]

    def stop_for_a_while(self, pid: int, seconds: float) -> None:
        _signal(pid, signal.SIGSTOP)
        self.after(seconds, lambda: _signal(pid, signal.SIGCONT))

    def rank(self, pick: float) -> int | None:
        ranks = sorted(self.deployment.ranks().items())
        return ranks[int(pick * len(ranks))][1] if ranks else None

    def kill_rank(self, pick: float) -> None:
        if (pid := self.rank(pick)) is not None:
            _signal(pid, signal.SIGKILL)

    def stop_rank(self, pick: float) -> None:
        if (pid := self.rank(pick)) is not None:
            self.stop_for_a_while(pid, 20 * pick)

    def s3(self, seconds: float, **rule: object) -> None:
        stack = ExitStack()
        stack.enter_context(self.deployment.s3_wire.breaking(**rule))
        self.after(seconds, stack.close)

    def repeat_messages(self, _pick: float) -> None:
        app = celery_app(self.deployment.settings)
        for batch in self.batches:
            for name in (EXPAND, FINALIZE):
                send_hint(app, name, batch.id)
        for name in (TICK, RENDER) * 5:
            send_hint(app, name)

    def cancel(self, pick: float) -> None:
        if self.batches and pick < 0.5:
            batch = self.batches[-1]
            try:
                if batch.cancel() is BatchState.CANCELLING:
                    self.cancelled.add(batch.id)
            except ServiceError as error:
                print(f"          not cancelled: {error}", flush=True)

    def roll_back(self, pick: float) -> None:
        forgotten_s = self._files.roll_back(self._copies[int(pick * len(self._copies))])
        print(f"          Redis has forgotten {forgotten_s:.0f} s", flush=True)
        self.forgotten_s = max(self.forgotten_s, forgotten_s)

    def empty_redis(self, _pick: float) -> None:
        try:
            self.deployment.ledger.store.redis.flushall()
        except redis.RedisError as error:
            print(f"          not emptied: {error}", flush=True)

    def to_objects(self, harm: Callable[[str, float], object], pick: float) -> object:
        """Do this to the objects of one of the latest batches."""
        latest = self.batches[-LATEST:]
        return harm(latest[int(pick * len(latest))].id, pick) if latest else None

    def hide(self, pick: float) -> None:
        hidden = self.to_objects(self.objects.hide, pick)
        if isinstance(hidden, ExitStack):
            self.after(HIDDEN_S, hidden.close)

    def late_lists(self, pick: float) -> None:
        wire = self.deployment.s3_wire
        wire.list_late_s = 60 * pick
        self.after(HIDDEN_S, lambda: setattr(wire, "list_late_s", 0.0))

    def malformed_messages(self, pick: float) -> None:
        queue = queue_key(self.deployment.settings.redis_prefix, CONTROL_QUEUE if pick < 0.5 else RENDER_QUEUE)
        try:
            self.deployment.ledger.store.redis.lpush(queue, *(raw for raw, _reason in POISON.values()))
        except redis.RedisError as error:
            print(f"          no messages: {error}", flush=True)

    def redis_connections(self, _pick: float) -> None:
        try:
            self.deployment.ledger.store.redis.client_kill_filter(_type="normal", skipme=True)
        except OSError:
            return


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


HARM: Mapping[str, Callable[[Soak, float], object]] = {
    "worker SIGKILLed": lambda soak, pick: soak.deployment.kill(soak.one("render", pick)),
    "worker asked to stop": lambda soak, pick: soak.deployment.send(soak.one("render", pick), signal.SIGTERM),
    "worker stopped for up to 40 s": lambda soak, pick: soak.stop_for_a_while(
        soak.deployment.pid(soak.one("render", pick)), 40 * pick
    ),
    "controller SIGKILLed": lambda soak, pick: soak.deployment.kill(soak.one("control", pick)),
    "controller stopped for up to 20 s": lambda soak, pick: soak.stop_for_a_while(
        soak.deployment.pid(soak.one("control", pick)), 20 * pick
    ),
    "beat SIGKILLed": lambda soak, pick: soak.deployment.kill(soak.one("beat", pick)),
    "rank SIGKILLed": Soak.kill_rank,
    "rank stopped for up to 20 s": Soak.stop_rank,
    "node SIGKILLed": lambda soak, _: soak.deployment.kill("node"),
    "Redis SIGKILLed": lambda soak, _: soak.deployment.services.redis.send(signal.SIGKILL),
    "Redis stopped for up to 15 s": lambda soak, pick: soak.stop_for_a_while(
        soak.deployment.services.redis.pid or 0, 15 * pick
    ),
    "Redis: connections killed": Soak.redis_connections,
    "Redis: connections half open": lambda soak, _: soak.deployment.redis_wire.go_silent(),
    "S3 answers 503": lambda soak, pick: soak.s3(15 * pick, status=503),
    "S3 answers 403": lambda soak, pick: soak.s3(10 * pick, status=403),
    "S3 is slow": lambda soak, pick: soak.s3(15 * pick, delay_s=1.5),
    "uploads cut in the middle": lambda soak, pick: soak.s3(20, method="PUT", cut="upload", times=1 + int(4 * pick)),
    "answers to uploads lost": lambda soak, pick: soak.s3(20, method="PUT", cut="answer", times=1 + int(4 * pick)),
    "every message repeated": Soak.repeat_messages,
    "a batch cancelled": Soak.cancel,
    "Redis rolled back by up to a minute": Soak.roll_back,
    "Redis emptied": Soak.empty_redis,
    "an object deleted": lambda soak, pick: soak.to_objects(soak.objects.delete, pick),
    "an object damaged": lambda soak, pick: soak.to_objects(soak.objects.damage, pick),
    "objects hidden for 15 s": Soak.hide,
    "lists late by up to 60 s": Soak.late_lists,
    "malformed messages": Soak.malformed_messages,
}


def soaked(folder: Path, minutes: float, seed: int) -> dict[str, object]:
    """Run, check, and say what was survived, and under `broken` what was not."""
    model = folder / "model"
    subprocess.run([sys.executable, "-P", "-m", "distri.demo_model", str(model)], check=True, cwd=folder)
    with running_services(folder / "services") as services:
        deployment = Deployment(folder / "data", services, model, max_attempts=1000, collective_timeout_s=30)
        try:
            deployment.start(*PARTS)
            keys = deployment.ledger.store.keys
            until("the controller is there", lambda: deployment.ledger.store.redis.exists(keys.deployment))
            soak = Soak(deployment, seed)
            soak.run(minutes)
            calm = time.monotonic()
            broken = soak.broken()
            settled_s = time.monotonic() - calm
            images = sum(batch.status().total for batch in soak.batches)
            isolated = sum(failure.code is FailureCode.POISON for batch in soak.batches for failure in batch.errors())
            committed = sum(batch.status().succeeded for batch in soak.batches)
        finally:
            deployment.close()
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
        "seed": seed,
        "minutes": minutes,
        "cores": os.cpu_count(),
        "harm": dict(sorted(soak.done.items())),
        "batches": len(soak.batches),
        "cancelled_batches": len(soak.cancelled),
        "images": images,
        "committed": committed,
        "isolated": isolated,
        "repaired_batches": soak.repaired,
        "failed_batches": len(soak.failed),
        "most_forgotten_s": round(soak.forgotten_s),
        "objects_harmed": soak.objects.harmed.total(),
        "settled_s": round(settled_s, 1),
        "broken": broken,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every invariant holds with every seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, nargs="+", default=[secrets.randbelow(10**6)], help="one after the other")
    parser.add_argument("--output", type=Path, help="write what was survived here, as JSON")
    parser.add_argument("--folder", type=Path, help="keep all data and logs in this new folder")
    asked = parser.parse_args(arguments)
    soaks = []
    for seed in asked.seed:
        print(f"seed {seed}: repeat it with `make soak MINUTES={asked.minutes:g} SEED={seed}`", flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if asked.folder is None else asked.folder / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            soaks.append(soaked(folder, asked.minutes, seed))
        print(json.dumps(soaks[-1]), flush=True)
        if asked.output:
            asked.output.write_text(json.dumps({"soaks": soaks}, indent=2) + "\n")
    return 1 if any(soak["broken"] for soak in soaks) else 0


if __name__ == "__main__":
    sys.exit(main())
