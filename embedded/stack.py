"""The whole stack on one data folder: services, model, node and workers, started in order and kept running.

`python -P -m embedded.stack --data-dir D`. It holds a lock on the folder while it runs, and everything that it starts
dies with it, so that a killed stack leaves data but no process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import structlog

from embedded.model import await_demo_model, start_demo_model
from embedded.processes.child import Child, Program, stop_all
from embedded.processes.on_demand import OnDemand, listen
from embedded.processes.supervisor import supervise
from embedded.services.readiness import StopRequested
from embedded.services.services import Services, no_proxy, start_services, stop_services
from embedded.stack_settings import Wishes, stack_settings
from pipeline.client.local_stack import LOCK_FILE, MARKER_FILE, STATE_FILE, StackState, missing_for_page
from pipeline.client.stack_environment import without_deployment
from pipeline.errors import TesseraError
from pipeline.process import flock
from pipeline.process.files import write_private
from pipeline.process.lifeline import die_with_parent
from pipeline.process.logs import configure_logging
from pipeline.process.private import UMASK, private_folder, tighten

# Commands that run besides services and node, by name; each reads the deployment from its environment.
WORKERS: Mapping[str, Sequence[str]] = {
    name: (sys.executable, "-P", "-m", "tasks.worker", name) for name in ("control", "render", "beat")
}

# The HTTP API and its page, started when somebody first asks; it takes over a socket.
SERVE = (sys.executable, "-P", "-m", "pipeline", "serve")
_USUAL_PORT = 8080

_SERVICES_S = 30.0
_MODEL_S = 120.0
_WORKER_GRACE_S = 5.0
_NODE_GRACE_S = 10.0
_TIGHTEN_S = 30.0
_PREDECESSOR_S = 1.0  # also longer than `tessera` holds the lock to ask whether it is held

log = structlog.get_logger("embedded.stack")


class Stack:
    """One run of the stack: `start`, then `watch`, then `stop`, all in the main thread."""

    def __init__(self, options: argparse.Namespace, workers: Mapping[str, Sequence[str]]) -> None:
        self._options = options
        self._data_dir: Path = options.data_dir
        self._wishes = Wishes(
            slots=options.slots,
            ranks=options.gpus,
            images_per_job=options.images_per_job,
            device=options.device,
            default_model=options.default_model,
            loras=options.loras,
            embeddings=options.embeddings,
            controlnets=options.controlnets,
            ip_adapters=options.ip_adapters,
            demo_model=not options.no_model,
        )
        self._workers = workers
        self._services: Services | None = None
        self._model: Child | None = None
        self._children: list[Child] = []  # node first, then workers
        self._page: OnDemand | None = None
        self._stopping = False
        self._tighten_at = 0.0
        self._began = time.monotonic()

    def request_stop(self) -> None:
        """Ask `start` and `watch` to return; may be called from a signal handler."""
        self._stopping = True

    def start(self) -> None:
        """Start everything and write the state file. Raises TesseraError, StopRequested."""
        without = self._options.no_page or missing_for_page()
        listener = None if without else listen(self._options.port, _USUAL_PORT)
        plain = without_deployment(os.environ) | _OF_EVERY_CHILD
        self._model = None if self._options.no_model else start_demo_model(self._data_dir, plain)
        self._services = start_services(self._data_dir, _SERVICES_S, lambda: self._stopping, on_ready=self._report)
        if self._model is not None:
            await_demo_model(self._model, self._data_dir, _MODEL_S, lambda: self._stopping)
            self._report("demo model")
        settings = stack_settings(
            self._wishes, self._services.settings, self._data_dir, os.environ, webhook_key=self._services.webhook_key
        )
        deployment = settings.environment() | self._services.credentials | no_proxy(os.environ)
        environment = plain | deployment
        node = (sys.executable, "-P", "-m", "embedded.node", "--data-dir", str(self._data_dir))
        for name, command in {"node": node, **self._workers}.items():
            child = Child(Program(name, command, environment, self._data_dir, self._data_dir / "logs" / f"{name}.log"))
            child.start()
            self._children.append(child)
        self._report("node and workers")
        if listener is not None:
            log_file = self._data_dir / "logs" / "serve.log"
            self._page = OnDemand(Program("serve", SERVE, environment, self._data_dir, log_file), listener, "--fd")
        state = StackState(
            pid=os.getpid(),
            started_at=datetime.now(UTC),
            data_dir=self._data_dir,
            logs=self._data_dir / "logs",
            page=self._page.url if self._page else None,
            # A client chooses how it logs by itself.
            environment={name: value for name, value in deployment.items() if not name.startswith("TESSERA_LOG_")},
        )
        tighten(self._data_dir / "s3")
        write_private(self._data_dir / STATE_FILE, state.model_dump_json(indent=2))
        log.info("stack is up", seconds=round(time.monotonic() - self._began, 2), data_dir=str(self._data_dir))

    def watch(self) -> None:
        """Restart every process that ends, until asked to stop."""
        servers = [self._services.redis, self._services.s3] if self._services else []
        page = [self._page.child] if self._page else []
        supervise([*servers, *self._children, *page], self._asked_to_stop)

    def _asked_to_stop(self) -> bool:
        if self._page is not None:
            self._page.start_if_asked()
        if (now := time.monotonic()) > self._tighten_at:
            self._tighten_at = now + _TIGHTEN_S
            tighten(self._data_dir / "s3")  # SeaweedFS opens a few of its files to all by itself
        return self._stopping

    def stop(self) -> None:
        """Stop everything in order: workers hand over, the node ends its attempts, the services write their data."""
        began = time.monotonic()
        (self._data_dir / STATE_FILE).unlink(missing_ok=True)
        killed = stop_all([self._model] if self._model else [], grace_s=0)
        page = [self._page.child] if self._page else []
        killed += stop_all([*page, *self._children[1:]], _WORKER_GRACE_S)
        killed += stop_all(self._children[:1], _NODE_GRACE_S)
        if self._services is not None:
            stop_services(self._services)
            tighten(self._data_dir / "s3")
        log.info("stack is down", seconds=round(time.monotonic() - began, 2), killed=[child.name for child in killed])

    def _report(self, phase: str) -> None:
        log.info("phase", phase=f"{phase} ready", seconds=round(time.monotonic() - self._began, 2))


_OF_EVERY_CHILD = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def main(arguments: Sequence[str]) -> int:
    """Entry point: exit status 0 after an orderly stop, 1 if it cannot start, 2 if another stack runs."""
    options = _parsed(arguments)
    if options.with_parent is not None:
        die_with_parent(options.with_parent)
    configure_logging()
    data_dir: Path = options.data_dir
    os.umask(UMASK)
    private_folder(data_dir)
    lock = flock.acquire(data_dir / LOCK_FILE, _PREDECESSOR_S)
    if lock is None:
        sys.stderr.write(
            f"another stack runs on {data_dir}; `tessera down` stops it, --data-dir names another folder\n"
        )
        return 2
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    (data_dir / STATE_FILE).unlink(missing_ok=True)  # a predecessor that was killed could not remove it
    (data_dir / MARKER_FILE).touch(mode=0o600)
    if tightened := tighten(data_dir):
        log.warning("files of the data folder were open to others; they are not any more", files=tightened)
    stack = Stack(options, options.workers)
    _on_stop_signals(stack.request_stop)
    try:
        stack.start()
        stack.watch()
    except StopRequested:
        log.info("asked to stop while starting")
    except TesseraError as error:
        sys.stderr.write(f"the stack on {data_dir} cannot come up: {error}\n")
        return 1
    finally:
        stack.stop()
        os.ftruncate(lock, 0)
        os.close(lock)
    return 0


def _on_stop_signals(stop: Callable[[], None]) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handle)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -P -m embedded.stack",
        description="Run Tessera on this machine: Redis, S3, a node and workers.",
    )
    parser.add_argument(
        "--data-dir", type=lambda text: Path(text).expanduser().absolute(), required=True, help="folder for all data"
    )
    parser.add_argument("--slots", type=int, help="how many attempts run at a time")
    parser.add_argument("--gpus", type=int, help="ranks (processes) of an attempt; by default as many as GPUs, else 2")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="what they compute on")
    parser.add_argument("--default-model", help="model of rows that name none")
    parser.add_argument("--loras", type=json.loads, default={}, help="LoRA files by name, as JSON")
    parser.add_argument("--embeddings", type=json.loads, default={}, help="embedding files by name, as JSON")
    parser.add_argument("--controlnets", type=json.loads, default={}, help="ControlNet files by name, as JSON")
    parser.add_argument(
        "--ip-adapters",
        type=json.loads,
        default={},
        help="IP-Adapters by name, as JSON: file and encoder's folder",
    )
    parser.add_argument("--images-per-job", type=int, help="most images in a job")
    parser.add_argument("--with-parent", type=int, metavar="PID", help="end when this process, our parent, ends")
    parser.add_argument("--port", type=int, help="of the HTTP API and its page; by default 8080, or a free one")
    parser.add_argument("--no-page", action="store_true", help="start without the HTTP API and its page")
    parser.add_argument("--no-model", action="store_true", help="start without the demo model; nothing can be rendered")
    parser.add_argument(
        "--workers", type=json.loads, default=WORKERS, help="commands to run instead of the workers, by name, as JSON"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
