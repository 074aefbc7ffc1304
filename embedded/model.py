"""The demo model of a data folder, pinned by its content. In a checkout it is the trained model of `models/demo`.

A wheel does not include that: there a model with random weights is made, once and offline, by `distri.demo_model`.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from embedded.processes.child import Child, Program, stop_all
from embedded.services.readiness import StopRequested
from pipeline.checkpoints.hashes import folder_revision
from pipeline.errors import ServiceError
from pipeline.process.private import tighten

NATIVE_PX = 256

# Made by `python -m training WORK models/demo`; not in a wheel.
TRAINED = Path(__file__).parents[1] / "models" / "demo"

# Beside it, for it alone, by the names that rows call them; made by `python -m training.demonstrators`.
CONTROLNETS = {"canny": Path("canny") / "diffusion_pytorch_model.safetensors"}
IP_ADAPTERS = {"scene": Path("scene") / "ip-adapter.safetensors"}

_POLL_S = 0.05
_UNFINISHED = "demo.unfinished"


def demo_model(data_dir: Path) -> Path:
    """Where the model is, or will be."""
    return data_dir / "models" / "demo"


def beside_demo(files: Mapping[str, Path], revision: str, *, trained: Path = TRAINED) -> dict[str, Path]:
    """Those of the files that are there, if the model of this revision is the one that they were trained for."""
    found = {name: trained.parent / path for name, path in files.items() if (trained.parent / path).is_file()}
    return found if found and trained.is_dir() and folder_revision(trained) == revision else {}


def start_demo_model(data_dir: Path, environment: Mapping[str, str], *, trained: Path = TRAINED) -> Child | None:
    """Copy the model there or start making it, unless it exists; it gets its name only when it is complete."""
    if demo_model(data_dir).exists():
        return None
    unfinished = data_dir / "models" / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(mode=0o700, exist_ok=True)
    if (trained / "model_index.json").is_file():
        shutil.copytree(trained, unfinished)
        tighten(unfinished)  # the copy has the modes of what it is a copy of
        unfinished.rename(demo_model(data_dir))
        return None
    child = Child(
        Program(
            name="demo model",
            command=[sys.executable, "-P", "-m", "distri.demo_model", str(unfinished)],
            environment=environment,
            folder=data_dir,
            log=data_dir / "logs" / "demo_model.log",
        )
    )
    child.start()
    return child


def await_demo_model(child: Child, data_dir: Path, timeout_s: float, give_up: Callable[[], bool]) -> None:
    """Wait until the model is made, then give it its name. Raises ServiceError, StopRequested."""
    deadline = time.monotonic() + timeout_s
    try:
        while (code := child.exit_code()) is None:
            if give_up():
                raise StopRequested
            if time.monotonic() > deadline:
                raise ServiceError(f"the demo model was not made in {timeout_s:.0f} s; {child.log_excerpt()}")
            time.sleep(_POLL_S)
    finally:
        stop_all([child], grace_s=0)
    unfinished = data_dir / "models" / _UNFINISHED
    if code != 0 or not unfinished.is_dir():
        raise ServiceError(f"the demo model could not be made (exit code {code}); {child.log_excerpt()}")
    unfinished.rename(demo_model(data_dir))
