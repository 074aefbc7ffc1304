"""How long kernels took to start in earlier processes: kept beside the compiled ones, for whoever decides about a job.

A start is all that is done before kernels are used: Triton's import and its binding to the driver, compiling or
loading, and comparing. What was measured holds for one GPU model and one version of torch.
"""

import importlib.util
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
import torch

log = structlog.get_logger(__name__)

RECORD = "tessera-start.json"


@dataclass(frozen=True)
class StartTimes:
    """Seconds that a start took; None where nobody has measured it.

    Attributes:
        cold_s: with nothing compiled.
        warm_s: with kernels of the image or of an earlier process.
    """

    cold_s: float | None = None
    warm_s: float | None = None


def are_compiled() -> bool:
    """Whether kernels have been compiled for this installation, or by it before."""
    if importlib.util.find_spec("triton") is None:
        return False
    from distri.layers.kernels.cache import any_compiled

    return any_compiled()


def measured_start(gpu: str) -> StartTimes:
    """What was measured on such a GPU; nothing where there is no record, or none that can be read."""
    if importlib.util.find_spec("triton") is None:
        return StartTimes()
    times = _read(_record()).get(_key(gpu))
    if not isinstance(times, dict):
        return StartTimes()
    known = {name: times.get(name) for name in ("cold_s", "warm_s")}
    return StartTimes(**{name: float(value) for name, value in known.items() if isinstance(value, int | float)})


def note_start(gpu: str, seconds: float, *, cold: bool) -> None:
    """Keep what this process measured. Ranks may do so at once; the last one's stands.

    Args:
        gpu: its model's name.
        seconds: that the start took.
        cold: whether nothing was compiled when it began.
    """
    record = _record()
    times = asdict(measured_start(gpu)) | {"cold_s" if cold else "warm_s": round(seconds, 2)}
    text = json.dumps(_read(record) | {_key(gpu): times}, indent=1)
    whole = record.with_name(f"{record.name}.{os.getpid()}")
    try:
        whole.write_text(text)
        whole.replace(record)
    except OSError as error:
        log.info("how long kernels took to start is not kept", reason=str(error))


def _record() -> Path:
    from triton import knobs

    return Path(knobs.cache.dir) / RECORD


def _key(gpu: str) -> str:
    return f"{gpu}, torch {torch.__version__}"


def _read(record: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        found = json.loads(record.read_text())
        if isinstance(found, dict):
            return found
    return {}
