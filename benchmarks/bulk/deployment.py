"""A deployment of the embedded services and real processes, and what each process needs of memory and CPU."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded.services.services import Services, no_proxy, running_services
from pipeline.bucket.artifacts import Artifacts
from pipeline.client.connect import Connection
from pipeline.deployment.settings import load_settings
from pipeline.ledger import Ledger
from pipeline.states import BatchState

MB = 1_000_000
MODELS = {"sdxl": {"path": "models/sdxl", "revision": "r1", "native_px": 1024}}

_LOOK_S = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """What a process has used: its peak resident set (VmHWM), and its processor time."""

    peak_mb: float = 0.0
    cpu_s: float = 0.0


@dataclass
class Watch:
    """Looks at processes by their ids until each has ended; a peak only grows, so the last look says it."""

    usage: dict[str, Usage] = field(default_factory=dict)
    _pids: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, pid: int) -> None:
        """Look at this process from now on."""
        with self._lock:
            self._pids[name] = pid
            self.usage[name] = Usage()

    def run(self) -> None:
        """Look again and again."""
        while not self._over.wait(_LOOK_S):
            self.look()

    def look(self) -> None:
        """Look once."""
        with self._lock:
            for name, pid in self._pids.items():
                try:
                    status, stat = Path(f"/proc/{pid}/status").read_text(), Path(f"/proc/{pid}/stat").read_text()
                except OSError:
                    continue
                peak_kb = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), None)
                if peak_kb is not None:  # none: it has ended, and its parent has not asked yet
                    user, system = stat.rpartition(")")[2].split()[11:13]
                    self.usage[name] = Usage(int(peak_kb) * 1024 / MB, (int(user) + int(system)) / _TICKS)

    def cpu(self) -> dict[str, float]:
        """Processor seconds of each process so far."""
        self.look()
        return {name: used.cpu_s for name, used in self.usage.items()}

    def report(self, *, since: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Peak and processor seconds of each process, those seconds from a look before on."""
        self.look()
        return {
            name: {"peak_mb": round(used.peak_mb), "cpu_s": round(used.cpu_s - since.get(name, 0.0), 1)}
            for name, used in self.usage.items()
        }

    def stop(self) -> None:
        """Look no more."""
        self._over.set()


@dataclass(frozen=True)
class Bench:
    """The deployment: how to reach it, the environment of its processes, a folder, and who watches them."""

    connection: Connection
    environment: Mapping[str, str]
    folder: Path
    services: Services
    watch: Watch

    @contextmanager
    def process(self, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A Python process, watched under this name and killed at the end; its output goes to <name>.log."""
        with (
            (self.folder / f"{name}.log").open("ab") as log,
            subprocess.Popen([sys.executable, *arguments], env=dict(self.environment), stdout=log, stderr=log) as child,
        ):
            self.watch.add(name, child.pid)
            try:
                yield child
            finally:
                child.kill()

    def tessera(self, name: str, *arguments: str) -> float:
        """Run a command of the command line to its end; returns its seconds. Raises RuntimeError if it failed."""
        began = time.monotonic()
        with self.process(name, "-c", "from pipeline.cli import main; main()", *arguments) as child:
            code = child.wait()
        seconds = time.monotonic() - began
        if code:
            raise RuntimeError(f"tessera {' '.join(arguments)}: exit code {code}: {self.log(name)[-2000:]}")
        return seconds

    def await_queued(self, batch_id: str, timeout_s: float = 3600) -> None:
        """Return when all jobs of a batch are in the backlog. Raises TimeoutError."""
        batches = self.connection.ledger.batches
        until(lambda: batches.known(batch_id) and batches.get(batch_id).jobs, f"{batch_id} is queued", timeout_s)

    def await_completed(self, batch_id: str, timeout_s: float = 3600) -> None:
        """Return when the results of a batch are written. Raises TimeoutError."""
        batches = self.connection.ledger.batches
        until(lambda: batches.state(batch_id) is BatchState.COMPLETED, f"{batch_id} is completed", timeout_s)

    def log(self, name: str) -> str:
        """What a process has written."""
        return (self.folder / f"{name}.log").read_text()

    def redis_mb(self) -> float:
        """Redis' used_memory."""
        return float(self.connection.ledger.store.redis.info("memory")["used_memory"]) / MB

    def redis_us(self) -> int:
        """Microseconds that Redis has spent in commands so far."""
        stats = self.connection.ledger.store.redis.info("commandstats")
        return sum(int(one["usec"]) for one in stats.values())

    def redis_calls(self) -> int:
        """How many commands Redis has carried out so far."""
        return int(self.connection.ledger.store.redis.info("stats")["total_commands_processed"])


@contextmanager
def deployment(**changes: Any) -> Iterator[Bench]:
    """Valkey and SeaweedFS of their own, a controller and beat on them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tessera-bulk-")))
        services = stack.enter_context(running_services(folder / "services"))
        os.environ.update(services.credentials | no_proxy(os.environ))
        own = {"redis_prefix": "bench", "launcher": "local", "models": MODELS, "data_dir": folder}
        settings = load_settings({}, **_joined(services.settings, own, changes))
        watch = Watch()
        bench = Bench(
            Connection(settings, Ledger(settings), Artifacts(settings)),
            dict(os.environ) | settings.environment(),
            folder,
            services,
            watch,
        )
        for child in (services.redis, services.s3):
            if child.pid is not None:
                watch.add(child.name, child.pid)
        thread = threading.Thread(target=watch.run, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(watch.stop)
        stack.enter_context(bench.process("controller", "-m", "tasks.worker", "control"))
        stack.enter_context(bench.process("beat", "-m", "tasks.worker", "beat"))
        keys = bench.connection.ledger.store.keys
        until(lambda: bool(bench.connection.ledger.store.redis.exists(keys.deployment)), "the controller is there", 120)
        yield bench


def _joined(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def until(condition: Callable[[], object], what: str, timeout_s: float, pause_s: float = 0.05) -> None:
    """Return when the condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(pause_s)
