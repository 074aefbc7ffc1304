"""One deployment of real processes over real services, every part of which a test may stop, kill and start again."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedded.model import NATIVE_PX
from embedded.processes.child import Child, Program, stop_all
from embedded.processes.marked import marked
from embedded.services.services import Services, no_proxy
from pipeline import Batch, Client
from pipeline.checkpoints.hashes import folder_revision
from pipeline.client.connect import Connection, connect_to_stack
from pipeline.client.stack_environment import without_deployment
from pipeline.deployment.settings import ModelSource, Settings, load_settings
from pipeline.names import job_ref
from pipeline.records.batch import JobRecord
from pipeline.states import JobState
from tests.faults.redis_wire import RedisWire
from tests.faults.s3_wire import S3Wire

MARK = "FAULTS_MARK"
PATIENCE_S = 300.0

# Small enough for a second, and for several evaluations in which something may happen.
TINY = {"width": 64, "height": 64, "steps": 2}
LONGER: dict[str, Any] = {"width": 128, "height": 128, "steps": 12}

# Images that a pod renders at the same time: `make test-faults SLOTS=4`.
SLOTS = int(os.environ.get("FAULTS_SLOTS") or 1)


class Deployment:
    """A release of its own: prefixes in Redis and S3, a folder, a node, workers. Lease and pauses are the defaults.

    Its processes reach Redis and S3 over `redis_wire` and `s3_wire`; the test itself goes straight there.
    """

    def __init__(self, folder: Path, services: Services, model: Path, name: str = "", **settings: Any) -> None:
        self.folder, self.services = folder, services
        self.mark = uuid.uuid4().hex
        self.redis_wire = RedisWire(services.endpoints.ports["redis"])
        self.s3_wire = S3Wire(services.endpoints.s3_endpoint)
        name = name or f"faults-{self.mark[:8]}"
        values: dict[str, Any] = {
            **services.settings,
            "redis_prefix": name,
            "s3_prefix": name,
            "models": {"demo": ModelSource(path=str(model), revision=folder_revision(model), native_px=NATIVE_PX)},
            "launcher": "local",
            "device": "cpu",
            "dtype": "float32",
            "gpus": 2,
            "warm_s": 0.0,  # whether a pod is left is seen by its processes
            "layout": "1x1x2",
            "images_per_job": 4,
            **({"slots": SLOTS} if SLOTS > 1 else {}),
            "worker_slots": 1,
            "data_dir": folder,
            "log_format": "json",
            **settings,
        }
        self.settings: Settings = load_settings({}, **values)
        self.connection: Connection = connect_to_stack(self.settings.environment() | services.credentials)
        self.ledger, self.artifacts = self.connection.ledger, self.connection.artifacts
        self.client = Client(self.connection)
        self.batches: dict[str, bool] = {}  # by id: whether it was seen to end as it should
        self.children: dict[str, Child] = {}
        self._closed = False
        (folder / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def over_the_wires(self) -> dict[str, str]:
        """The settings of its processes."""
        wired = self.settings.environment()
        endpoints = self.services.endpoints
        wired["TESSERA_REDIS_URL"] = endpoints.redis_url.replace(
            f":{endpoints.ports['redis']}/", f":{self.redis_wire.port}/"
        )
        wired["TESSERA_S3_ENDPOINT"] = self.s3_wire.endpoint
        return wired

    def start(self, *names: str, **environment: str) -> None:
        """Start parts by name: `node`, or a role with anything behind a dash, as in `render-2`."""
        for name in names:
            self.start_one(name, [sys.executable, "-P", "-m", *self.module(name)], **environment)

    def module(self, name: str) -> list[str]:
        """What Python runs as the part of that name."""
        role = name.partition("-")[0]
        return ["embedded.node", "--data-dir", str(self.folder)] if role == "node" else ["tasks.worker", role]

    def start_one(self, name: str, command: Sequence[str], **environment: str) -> None:
        """Start one part by a command."""
        plain = without_deployment(os.environ) | no_proxy(os.environ)
        common = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", MARK: self.mark}
        program = Program(
            name,
            command,
            plain | common | self.over_the_wires | self.services.credentials | environment,
            self.folder,
            self.folder / "logs" / f"{name}.log",
        )
        self.children[name] = Child(program)
        self.children[name].start()

    def pid(self, name: str) -> int:
        pid = self.children[name].pid
        assert pid is not None
        return pid

    def send(self, name: str, number: signal.Signals) -> None:
        self.children[name].send(number)

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(name, signal.SIGKILL)
        until(f"{name} is gone", lambda: self.children[name].exit_code() is not None)

    def replace(self, name: str) -> None:
        """SIGKILL it and start it again, as whoever runs it does."""
        self.kill(name)
        self.start(name)

    def submit(self, images: int = 4, *, batch_id: str | None = None, **row: Any) -> Batch:
        """A batch of so many images; the invariants will be asked of it."""
        rows = [(TINY | row) | {"prompt": f"hill {number}"} for number in range(images)]
        return self.submit_rows(rows, batch_id=batch_id)

    def submit_rows(self, rows: Sequence[Mapping[str, Any]], *, batch_id: str | None = None) -> Batch:
        """The same of any rows."""
        batch = self.client.submit(rows, batch_id=batch_id)
        self.batches[batch.id] = False
        return batch

    def rendering(self, images: int = 4, **row: Any) -> Batch:
        """A batch of images that take a while, the first of which is committed and the second has begun.

        With several slots the others have begun with the first, which has a few steps alone.
        """
        rows = [(LONGER | row) | {"prompt": f"hill {number}"} for number in range(images)]
        if (self.settings.slots or 1) > 1:
            rows[0]["steps"] = 2
        batch = self.submit_rows(rows)
        until("an image is committed", lambda: batch.status().succeeded)
        return batch

    def job_or_none(self, batch: Batch, index: int = 0) -> JobRecord | None:
        return self.ledger.jobs.get(job_ref(batch.id, index))

    def job(self, batch: Batch, index: int = 0) -> JobRecord:
        job = self.job_or_none(batch, index)
        assert job is not None
        return job

    def images_put(self, batch: Batch) -> int:
        """How many pictures of a batch the store has said yes to."""
        return sum(f"/{batch.id}/images/" in key and key.endswith(".png") for key in list(self.s3_wire.puts))

    def attempts(self, batch: Batch) -> list[int]:
        """Which attempt made each image."""
        return [image.result.provenance.attempt for image in batch.images()]

    def in_state(self, batch: Batch, state: JobState, index: int = 0) -> None:
        until(
            f"job {index} is {state}",
            lambda: (job := self.job_or_none(batch, index)) is not None and job.state is state,
        )

    def fence(self, batch: Batch, index: int = 0) -> int:
        """How many claims of a job there were."""
        key = self.ledger.store.keys.job(job_ref(batch.id, index))
        return int(self.ledger.store.redis.hget(key, "fence") or 0)

    def held(self, batch: Batch, index: int = 0) -> bool:
        return self.ledger.jobs.held(job_ref(batch.id, index))

    def processes(self) -> dict[int, str]:
        """Every living process of the deployment, with its command line."""
        return {
            pid: command for pid in marked(MARK, self.mark) if (command := _read(pid, "cmdline").replace("\0", " "))
        }

    def ranks(self) -> dict[int, int]:
        """Process ids of the ranks that run now, by rank."""
        found = {}
        for pid, command in self.processes().items():
            variables = dict(v.partition("=")[::2] for v in _read(pid, "environ").split("\0"))
            if "-m distri.run" in command and "torch.distributed" not in command and "RANK" in variables:
                found[int(variables["RANK"])] = pid
        return found

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")

    def attempt_log(self) -> str:
        """What all pods have said."""
        return "".join(path.read_text(errors="replace") for path in (self.folder / "logs" / "attempts").glob("*.log"))

    def close(self) -> None:
        """End everything; whatever is left is ended too, and is an error. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        for child in self.children.values():
            child.send(signal.SIGCONT)  # a stopped process would not hear
        names = sorted(self.children, key=lambda name: name == "node")  # as a stack stops: the node last
        for group in ([n for n in names if n != "node"], [n for n in names if n == "node"]):
            stop_all([self.children[name] for name in group], grace_s=10)
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.redis_wire.close()
        self.s3_wire.close()
        assert not left, f"processes were left behind: {left}"


def until(what: str, true: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.05)
    return found


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""  # it has ended
