"""What renders one picture on this machine where no stack runs, as its user sees it: start it, find it, stop it.

The process itself lives in embedded and is started by name: the user's side imports nothing of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pipeline.client.stack_environment import heeded
from pipeline.deployment.model_file import MODELS_FILE
from pipeline.deployment.settings import MachineSettings, load_part
from pipeline.errors import NoneConfigured, ServiceError, SettingsError
from pipeline.process import flock
from pipeline.process.log_tail import log_tail
from pipeline.process.private import UMASK, open_log, private_folder
from pipeline.records.standalone import Serving, StandaloneFolder
from pipeline.version import installed_version

STANDALONE = "standalone"
LOG = "render.log"
ENGINE_MODULES = ("torch", "diffusers", "transformers")

_LOG_LIMIT_BYTES = 16 * 2**20
_POLL_S = 0.02
_GRACE_S, _KILL_S = 2.0, 10.0

# Processes that this one has started, kept so that they can be reaped when they end.
_started: list[subprocess.Popen[bytes]] = []


def settings_digest(data_dir: Path, environ: Mapping[str, str]) -> str:
    """What decides how a picture is rendered here: a change of it wants another engine."""
    models = data_dir / MODELS_FILE
    parts = [
        installed_version(),
        sorted(heeded(environ, data_dir).items()),
        environ.get("CUDA_VISIBLE_DEVICES"),
        models.read_text(encoding="utf-8") if models.is_file() else None,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_installed() -> None:
    """Raise NoneConfigured if this environment has no engine, and no deployment is named."""
    if missing := [name for name in ENGINE_MODULES if importlib.util.find_spec(name) is None]:
        raise NoneConfigured(
            f"no deployment found, and to render here needs {', '.join(missing)}: pip install 'tessera-render[all]', "
            "or set TESSERA_URL, or TESSERA_REDIS_URL, TESSERA_S3_BUCKET and TESSERA_S3_ENDPOINT (docs/settings.md)"
        )


def serving(data_dir: Path, environ: Mapping[str, str], on_news: Callable[[str], object]) -> Serving:
    """What renders here with the settings of `environ`; it is started if need be.

    Waits until another one, with other settings, has rendered what it was asked for, and ends it.
    Raises NoneConfigured, SettingsError, ServiceError.
    """
    check_installed()
    folder, wanted = StandaloneFolder.of(data_dir), settings_digest(data_dir, environ)
    private_folder(folder.pictures)
    started: subprocess.Popen[bytes] | None = None
    waits = False
    while True:
        found = folder.serving if flock.is_held(folder.lock) else None
        if found is None:
            if started is None:
                on_news(_start_line(data_dir, environ))
                started = _start(data_dir, environ)
            if (code := started.poll()) is not None and not flock.is_held(folder.lock):
                _raise_why(data_dir, folder, code)
        elif found.settings == wanted:
            return found
        elif not _is_busy(folder, found):
            on_news("settings have changed since the model was loaded: it is loaded again")
            stop_standalone(data_dir)
            started = _start(data_dir, environ)
        elif not waits:
            on_news("waiting for a picture that is rendered with other settings")
            waits = True
        time.sleep(_POLL_S)


def is_serving(data_dir: Path) -> bool:
    """Whether anything renders pictures of a data folder without a stack, or waits for them."""
    return flock.is_held(StandaloneFolder.of(data_dir).lock)


def stop_standalone(data_dir: Path) -> bool:
    """End what renders pictures of a data folder without a stack; returns whether there was anything."""
    lock = StandaloneFolder.of(data_dir).lock
    if not flock.is_held(lock):
        return False
    if flock.end_holder(lock, grace_s=_GRACE_S, kill_s=_KILL_S) is None:  # all of it dies with it
        raise ServiceError(f"what renders in {data_dir} did not end; {lock} is still held")
    for one in _started:
        one.poll()
    return True


def _start_line(data_dir: Path, environ: Mapping[str, str]) -> str:
    kept_s = load_part(MachineSettings, heeded(environ, data_dir)).warm_s
    kept = f", and keeping it for {kept_s:.0f} s without work (`tessera down` frees it)" if kept_s else ""
    return f"no stack runs: loading the model here{kept}"


def _start(data_dir: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    log = data_dir / "logs" / LOG
    private_folder(log.parent)
    if log.is_file() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_name(f"{LOG}.1"))
    with open_log(log) as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "embedded.standalone", "--data-dir", str(data_dir.absolute())],
            cwd=data_dir,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives the command, and a terminal's Ctrl-C is for that
            umask=UMASK,
        )
    _started.append(process)
    return process


def _is_busy(folder: StandaloneFolder, found: Serving) -> bool:
    """Whether somebody waits for a picture with these settings."""
    for picture in folder.asked_for():
        with suppress(FileNotFoundError):
            if picture.is_awaited and picture.ended is None and picture.asked.settings == found.settings:
                return True
    return False


def _raise_why(data_dir: Path, folder: StandaloneFolder, code: int) -> NoReturn:
    found = folder.serving
    if found is not None and found.problem is not None:
        raise SettingsError(found.problem)
    log = data_dir / "logs" / LOG
    raise ServiceError(f"nothing can be rendered here (exit code {code}); {log} ends with:\n{log_tail(log)}")
